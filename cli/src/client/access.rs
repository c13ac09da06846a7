//! What a client shows of itself, and whom it trusts. A token is shown over TLS alone.

use super::ClientError;
use identity::dial::Dialer;
use identity::token::Secret;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Plain text, or TLS with an authority and a token.
#[derive(Clone)]
pub struct Access {
    pub(super) dialer: Dialer,
    pub(super) bearer: Bearer,
}

impl Access {
    /// For replicas that run with `--insecure`.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            dialer: Dialer::plain(),
            bearer: Bearer(None),
        }
    }

    /// `authority` in PEM; without a token, replicas say how to get one.
    ///
    /// # Errors
    /// [`ClientError::Authority`] and [`ClientError::Token`].
    pub fn new(authority: Option<&str>, token: Option<&str>) -> Result<Self, ClientError> {
        let authority = authority.ok_or(ClientError::NoAuthority)?;
        let dialer =
            Dialer::trusting(authority).map_err(|error| ClientError::Authority(error.to_string()))?;
        let bearer = match token {
            Some(text) => {
                let secret: Secret = text.parse().map_err(ClientError::Token)?;
                let value = MetadataValue::try_from(format!("Bearer {secret}"));
                let mut value = value.map_err(|error| ClientError::Authority(error.to_string()))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            dialer,
            bearer: Bearer(bearer),
        })
    }
}

/// Puts the token on every request.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}
