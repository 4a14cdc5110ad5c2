//! Whether contents are sound, a picture or a video.

use std::fs::File;
use std::io::Read;

use super::reader::Reader;
use super::track::NO_VIDEO;
use crate::image::is_picture;
use crate::{MediaError, Result, Source};

/// What a file holds, as a model takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sound.
    Sound,
    /// A picture; of a GIF or TIFF, the first of several.
    Picture,
    /// A video, with or without sound.
    Video,
}

/// Bytes at the start that are looked at: where Matroska lists its tracks, as a rule.
const HEAD: usize = 1 << 16;

/// Tells sound, pictures and videos apart by their contents, never by the name.
///
/// Contents that are known by their first bytes are told by these alone, whether or not they can be decoded. Everything else is opened
/// as a video: a file of that kind without pictures is sound.
///
/// # Errors
/// [`MediaError::Io`] for what cannot be read, [`MediaError::Unsupported`] for contents that are none of the three.
pub fn kind(source: &Source) -> Result<Kind> {
    let head = head(source)?;
    if is_picture(&head) {
        return Ok(Kind::Picture);
    }
    if is_sound(&head) {
        return Ok(Kind::Sound);
    }
    match (Reader::open(source), is_container(&head)) {
        (Ok(_), _) => Ok(Kind::Video),
        (Err(MediaError::Unusable { reason, .. }), _) if reason == NO_VIDEO => Ok(Kind::Sound),
        // What is wrong with it is reported when it is read.
        (Err(_), true) => Ok(Kind::Video),
        (Err(error @ MediaError::Io { .. }), _) => Err(error),
        (Err(error), false) => {
            let none = |why: &str| format!("neither sound nor a picture nor a video: {why}");
            let reason = error.into_reason().reworded(none);
            Err(MediaError::unsupported(source.origin(), reason))
        }
    }
}

fn head(source: &Source) -> Result<Vec<u8>> {
    let path = match source {
        Source::Bytes(bytes) => return Ok(bytes[..bytes.len().min(HEAD)].to_vec()),
        Source::Path(path) => path,
    };
    let io = |source| MediaError::Io { path: path.clone(), source };
    // Before it is opened: a pipe would be waited for.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(MediaError::unsupported(source.origin(), "this is no file"));
    }
    let mut head = Vec::new();
    File::open(path).map_err(io)?.take(HEAD as u64).read_to_end(&mut head).map_err(io)?;
    Ok(head)
}

/// Whether the first bytes are those of a format that holds nothing but sound.
fn is_sound(head: &[u8]) -> bool {
    const STARTS: [&[u8]; 8] = [b"fLaC", b"ID3", b".snd", b"caff", b"#!AMR", b"wvpk", b"MAC ", b"ADIF"];
    let form = head.get(8..12).unwrap_or_default();
    match head {
        [b'R', b'I', b'F', b'F' | b'X', ..] | [b'R', b'F', b'6', b'4', ..] => form == b"WAVE",
        [b'F', b'O', b'R', b'M', ..] => form == b"AIFF" || form == b"AIFC",
        // The first page of a video in OGG names its codec.
        [b'O', b'g', b'g', b'S', ..] => !head[..head.len().min(256)].windows(6).any(|name| name == b"theora"),
        [0x1A, 0x45, 0xDF, 0xA3, ..] => is_matroska_of_sound(head),
        // The synchronisation of MPEG audio and of AAC in ADTS, with a version and a layer that exist.
        [0xFF, second, ..] => second & 0xE0 == 0xE0 && second & 0x18 != 0x08,
        _ => STARTS.iter().any(|start| head.starts_with(start)),
    }
}

/// Whether the codecs that Matroska or WebM names are all of sound.
fn is_matroska_of_sound(head: &[u8]) -> bool {
    const CODEC_ID: u8 = 0x86;
    let codec = |kind: u8| move |at: &[u8]| matches!(at, [CODEC_ID, 0x80..=0xFF, first, b'_'] if *first == kind);
    head.windows(4).any(codec(b'A')) && !head.windows(4).any(codec(b'V'))
}

/// Whether the first bytes are those of a format that videos are kept in.
fn is_container(head: &[u8]) -> bool {
    let form = head.get(8..12).unwrap_or_default();
    let boxed = matches!(head.get(4..8), Some(b"ftyp" | b"moov" | b"mdat" | b"free" | b"wide" | b"skip"));
    let starts: [&[u8]; 5] = [&[0x1A, 0x45, 0xDF, 0xA3], b"OggS", b"FLV", &[0x30, 0x26, 0xB2, 0x75], &[0, 0, 1, 0xBA]];
    boxed || head.starts_with(b"RIFF") && form == b"AVI " || starts.iter().any(|start| head.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kind of a fixture, from its file and from its bytes.
    fn kind_of(name: &str) -> Kind {
        let path = testkit::media().join(name);
        let found = kind(&Source::from(&path)).unwrap();
        assert_eq!(kind(&std::fs::read(path).unwrap().into()).unwrap(), found, "{name}");
        found
    }

    #[test]
    fn every_fixture_is_told_by_its_contents() {
        for name in ["tone.flac", "tone.m4a", "tone.mp3", "tone.ogg", "tone.opus", "sound_only.mp4", "sound/law.au"] {
            assert_eq!(kind_of(name), Kind::Sound, "{name}");
        }
        for name in ["sound/adpcm.wav", "sound/alac.caf", "sound/layer2.mp2", "sound/plain.aiff", "sound/browser.webm"]
        {
            assert_eq!(kind_of(name), Kind::Sound, "{name}");
        }
        for name in ["picture.png", "picture.jpg", "picture.webp", "picture.bmp", "picture.gif", "picture.tif"] {
            assert_eq!(kind_of(name), Kind::Picture, "{name}");
        }
        for name in ["picture.heic", "picture.avif", "grid.heic", "fax.tif"] {
            assert_eq!(kind_of(name), Kind::Picture, "{name}");
        }
        for name in ["clip.mp4", "clip_vfr.mp4", "silent.mp4", "clip.webm"] {
            assert_eq!(kind_of(name), Kind::Video, "{name}");
        }
    }

    #[test]
    fn a_broken_video_stays_a_video_and_a_text_is_nothing() {
        let clip = std::fs::read(testkit::media().join("clip.mp4")).unwrap();
        assert_eq!(kind(&clip[..clip.len() / 2].into()).unwrap(), Kind::Video);
        for text in ["", "What is the sea?", "{\"a\": 1}"] {
            let error = kind(&text.as_bytes().into()).unwrap_err();
            assert!(matches!(error, MediaError::Unsupported { .. }), "{text}: {error}");
        }
        let error = kind(&"no/such/file.wav".into()).unwrap_err().to_string();
        assert!(error.starts_with("no/such/file.wav"), "{error}");
    }
}
