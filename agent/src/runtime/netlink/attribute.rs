//! The attributes of netlink messages: type, length and value, nested and padded to four bytes.

/// Marks an attribute whose value is attributes.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
const HEADER: usize = 4;

/// Writes attributes behind one another.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Behind a fixed header.
    pub(crate) fn behind(header: &[u8]) -> Self {
        Self {
            bytes: header.to_vec(),
        }
    }

    /// # Panics
    /// Where the value is longer than 65,531 bytes: all that is written here is far shorter.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(HEADER + value.len()).expect("an attribute of at most 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// nfnetlink has all numbers in network byte order.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// With the NUL that the kernel expects.
    pub(crate) fn put_str(&mut self, kind: u16, value: &str) {
        let mut text = value.as_bytes().to_vec();
        text.push(0);
        self.put(kind, &text);
    }

    pub(crate) fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.put(kind | NESTED, &inner.bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The attributes in `bytes`, up to the first malformed one.
pub(crate) fn read(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

/// The value of the first attribute of this kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    read(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let mut writer = Writer::behind(&[]);
        writer.put(1, &[7]);
        writer.put_u32(2, 3);
        writer.nest(3, |inner| inner.put_str(4, "ab"));
        let bytes = writer.finish();
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = read(&bytes).collect();
        assert_eq!(read[..2], [(1, &[7][..]), (2, &[0, 0, 0, 3][..])]);
        assert_eq!(find(read[2].1, 4), Some(&b"ab\0"[..]));
    }

    #[test]
    fn malformed_attributes_end_the_reading() {
        for bytes in [&[][..], &[9], &[4, 0, 1], &[3, 0, 1, 0], &[9, 0, 1, 0, 0]] {
            assert_eq!(read(bytes).count(), 0, "{bytes:?}");
        }
    }
}
