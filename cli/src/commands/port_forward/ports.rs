//! A pair of ports as it is written: `PORT`, `LOCAL:PORT`, or `:PORT` for any free one here.

use std::str::FromStr;

/// One port of this machine that stands for one of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortPair {
    /// 0: any that is free.
    pub local: u16,
    pub remote: u16,
}

impl FromStr for PortPair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().ok();
        let local = if local.is_empty() { Some(0) } else { port(local) };
        match (local, port(remote).filter(|remote| *remote > 0)) {
            (Some(local), Some(remote)) => Ok(Self { local, remote }),
            (None, _) | (_, None) => Err("write PORT, LOCAL:PORT, or :PORT for any free one here".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_kubectl_has_them() {
        for (text, want) in [
            ("80", Some((80, 80))),
            ("8080:80", Some((8080, 80))),
            (":80", Some((0, 80))),
            ("0:80", Some((0, 80))),
            ("65535", Some((65535, 65535))),
            ("0", None),
            ("65536", None),
            ("80:", None),
            ("a:80", None),
            ("1:2:3", None),
            ("", None),
        ] {
            let pair = text.parse::<PortPair>().ok();
            assert_eq!(pair.map(|pair| (pair.local, pair.remote)), want, "{text:?}");
        }
    }
}
