//! The images that this process has given out. Those with a name are kept, so that who asks again needs no disk; those
//! that lost it to another are watched until nobody holds them. Guarded by who owns it.

use super::Image;
use super::error::ImageError;
use super::usage::Usage;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How old the time of last use on disk may be: a store of a thousand starts a second writes it once.
const NOTED_EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Images {
    /// By reference.
    named: HashMap<String, Named>,
    nameless: Vec<Weak<Image>>,
}

struct Named {
    image: Arc<Image>,
    /// When the use was noted on disk.
    noted: Instant,
}

impl Images {
    /// The image, and whether its use needs no noting.
    pub(super) fn get(&mut self, reference: &str) -> Option<(Arc<Image>, bool)> {
        let named = self.named.get_mut(reference)?;
        let is_noted = named.noted.elapsed() < NOTED_EVERY;
        if !is_noted {
            named.noted = Instant::now();
        }
        Some((named.image.clone(), is_noted))
    }

    /// Keeps an image whose use was just noted. The same as before stays the same.
    pub(super) fn keep(&mut self, image: Image) -> Arc<Image> {
        let noted = Instant::now();
        if let Some(named) = self.named.get_mut(&image.reference)
            && *named.image == image
        {
            named.noted = noted;
            return named.image.clone();
        }
        self.forget(&image.reference);
        let image = Arc::new(image);
        let named = Named {
            image: image.clone(),
            noted,
        };
        self.named.insert(image.reference.clone(), named);
        image
    }

    pub(super) fn forget(&mut self, reference: &str) {
        self.nameless.retain(|image| image.strong_count() > 0);
        if let Some(named) = self.named.remove(reference) {
            self.nameless.push(Arc::downgrade(&named.image));
        }
    }

    /// What is mounted, and what somebody holds.
    ///
    /// # Errors
    /// Where the kernel's table of mounts can't be read.
    pub(super) fn usage(&self) -> Result<Usage, ImageError> {
        let mut usage = Usage::mounted()?;
        let named = self.named.values().map(|named| &named.image);
        // One is our own.
        for image in named.filter(|image| Arc::strong_count(image) > 1) {
            usage.hold(image);
        }
        for image in self.nameless.iter().filter_map(Weak::upgrade) {
            usage.hold(&image);
        }
        Ok(usage)
    }
}
