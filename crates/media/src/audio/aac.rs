//! What an MP4 or Matroska file says about its AAC.

/// Rewrites the description of HE-AAC to that of its core, which is plain AAC at half the rate; `None` for any other.
///
/// The description is the `AudioSpecificConfig` of ISO/IEC 14496-3, section 1.6.2.1: the kind of object, the core's rate and channels,
/// the full rate, and the kind of the core.
pub(super) fn core_config(config: &[u8]) -> Option<[u8; 2]> {
    const LOW_COMPLEXITY: u32 = 2;
    const SPECTRAL_BAND_REPLICATION: u32 = 5;
    const PARAMETRIC_STEREO: u32 = 29;
    const ESCAPE: u32 = 15;
    let mut bits = Bits { bytes: config, at: 0 };
    let kind = bits.take(5)?;
    let (rate, channels) = (bits.take(4)?, bits.take(4)?);
    let full_rate = bits.take(4)?;
    let extended = matches!(kind, SPECTRAL_BAND_REPLICATION | PARAMETRIC_STEREO);
    // Rates that are spelled out are not in use for this.
    if !extended || rate == ESCAPE || full_rate == ESCAPE || bits.take(5)? != LOW_COMPLEXITY {
        return None;
    }
    Some(((LOW_COMPLEXITY << 11 | rate << 7 | channels << 3) as u16).to_be_bytes())
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_of_explicit_he_aac_is_described() {
        // 16 kHz and one channel, brought to 32 kHz; the same with parametric stereo.
        assert_eq!(core_config(&[0x2c, 0x0a, 0x88, 0x00]), Some([0x14, 0x08]));
        assert_eq!(core_config(&[0xec, 0x0a, 0x88, 0x00]), Some([0x14, 0x08]));
        for other in [&[0x14, 0x08][..], &[0x14, 0x08, 0x56, 0xe5, 0xa8], &[0x2c], &[]] {
            assert_eq!(core_config(other), None, "{other:x?}");
        }
    }
}
