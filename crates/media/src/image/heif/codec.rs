//! The codecs of HEIF pictures.

/// How pictures are coded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Codec {
    Hevc,
    Av1,
}

impl Codec {
    /// The codec of an item of this kind.
    pub(super) fn of(kind: &[u8; 4]) -> Option<Self> {
        match kind {
            b"hvc1" => Some(Self::Hevc),
            b"av01" => Some(Self::Av1),
            _ => None,
        }
    }

    /// ffmpeg's name of the form in which the coded pictures are handed to it.
    pub(super) fn form(self) -> &'static str {
        match self {
            Self::Hevc => "hevc",
            Self::Av1 => "ivf",
        }
    }
}
