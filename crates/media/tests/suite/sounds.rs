//! The sound files people have, against what FFmpeg hears in them: length, shape and level.

use qwen3_omni_media::Source;
use qwen3_omni_media::audio::{AudioInput, read};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(testkit::media().join("sound").join(name)).unwrap()
}

fn heard(source: impl Into<Source>) -> Vec<f32> {
    read(&AudioInput::Encoded(source.into())).unwrap()
}

fn refused(source: impl Into<Source>) -> String {
    read(&AudioInput::Encoded(source.into())).unwrap_err().to_string()
}

/// The question that all fixtures were made of.
fn speech() -> Vec<u8> {
    std::fs::read(testkit::nano().join("../nano-samples/spoken_hello_question.wav")).unwrap()
}

fn energy(samples: &[f32]) -> f64 {
    samples.iter().map(|sample| f64::from(*sample).powi(2)).sum()
}

/// Correlation and the difference of levels in dB, with `ours` read from `lag` on.
fn likeness(ours: &[f32], reference: &[f32], lag: usize) -> (f64, f64) {
    let ours = &ours[lag..];
    let length = ours.len().min(reference.len());
    let (ours, reference) = (&ours[..length], &reference[..length]);
    let product: f64 = ours.iter().zip(reference).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let energies = [ours, reference].map(energy);
    (product / (energies[0] * energies[1]).sqrt(), 10.0 * (energies[0] / energies[1]).log10())
}

fn assert_alike(name: &str, ours: &[f32], reference: &[f32]) {
    let difference = ours.len().abs_diff(reference.len());
    assert!(difference * 100 <= reference.len(), "{name}: {} samples, expected {}", ours.len(), reference.len());
    let (correlation, level) = likeness(ours, reference, 0);
    assert!(correlation > 0.995 && level.abs() < 0.1, "{name}: correlation {correlation}, level {level} dB");
}

#[test]
fn coded_sound_is_what_ffmpeg_hears() {
    for (name, reference) in [
        ("voice.ogg", "voice.ogg"),
        ("browser.webm", "browser.webm"),
        ("live.webm", "browser.webm"),
        ("surround.opus", "surround.opus"),
        ("opus.mp4", "opus.mp4"),
        ("opus.caf", "opus.caf"),
        ("vbr.mp3", "vbr.mp3"),
        ("layer2.mp2", "layer2.mp2"),
        ("delay.m4a", "delay.m4a"),
        ("trimmed.m4a", "trimmed.m4a"),
        ("adpcm.wav", "adpcm.wav"),
        // By the installed ffmpeg.
        ("surround.m4a", "surround.m4a"),
        ("stream.ts", "stream.ts"),
    ] {
        let reference = heard(file(&format!("{reference}.flac")));
        assert_alike(name, &heard(file(name)), &reference);
        assert_alike(name, &read(&AudioInput::SoundTrack(file(name).into())).unwrap(), &reference);
    }
}

#[test]
fn sound_without_loss_is_the_original() {
    let speech = heard(speech());
    for name in ["alac.m4a", "alac.caf", "plain.aiff"] {
        assert_eq!(heard(file(name)), speech, "{name}");
    }
    assert_alike("law.au", &heard(file("law.au")), &speech);
}

/// The core of HE-AAC has no upper octave, which speech at 16 kHz does not miss, and none of the delay that making it takes.
#[test]
fn the_core_of_he_aac_is_heard() {
    const DELAY: usize = 481;
    let reference = heard(file("core.m4a.flac"));
    for name in ["core.m4a", "core-explicit.m4a"] {
        let ours = heard(file(name));
        assert!(ours.len().abs_diff(reference.len()) * 100 <= reference.len(), "{name}: {}", ours.len());
        let (correlation, level) = likeness(&ours, &reference[DELAY..], 0);
        assert!(correlation > 0.995 && level.abs() < 0.1, "{name}: correlation {correlation}, level {level} dB");
    }
}

#[test]
fn sound_that_begins_late_has_silence_in_front() {
    const SILENCE: usize = 16_000 * 636 / 1000;
    let late = heard(file("late.mp4"));
    assert_eq!(energy(&late[..SILENCE]), 0.0);
    assert_alike("late.mp4", &late[SILENCE..], &heard(file("late.mp4.flac")));
}

/// Sets the 32 bits at `at`.
fn with_size(mut file: Vec<u8>, at: usize, size: u32) -> Vec<u8> {
    file[at..at + 4].copy_from_slice(&size.to_le_bytes());
    file
}

/// The place of the size of a WAV file's samples.
fn data_size(wav: &[u8]) -> usize {
    wav.windows(4).position(|name| name == b"data").unwrap() + 4
}

#[test]
fn wav_files_of_pipes_and_dead_recorders_are_heard_whole() {
    let speech = speech();
    let (whole, at) = (heard(speech.clone()), data_size(&speech));
    for size in [0, u32::MAX, 0x7fff_ffff, 0x7fff_f000, 0x8000_0000, u32::MAX - 36] {
        let unknown = with_size(speech.clone(), at, size);
        assert_eq!(heard(unknown.clone()), whole, "{size}");
        for riff in [0, 36, u32::MAX, size] {
            assert_eq!(heard(with_size(unknown.clone(), 4, riff)), whole, "{size}, {riff}");
        }
    }
    let list = b"LIST\x12\0\0\0INFOISFT\x05\0\0\0Lavf5".as_slice();
    let chunk = at - 4;
    let mut with_list = [&speech[..chunk], list, &speech[chunk..]].concat();
    with_list[chunk + 4] = 17;
    assert_eq!(heard(with_list), whole);
}

#[test]
fn wav_of_64_bit_sizes_and_headers_of_other_kinds_state_no_more_than_is_there() {
    let speech = speech();
    let at = data_size(&speech);
    let samples = &speech[at + 4..];
    let whole = heard(speech.clone());
    let sizes = [(samples.len() as u64 + 80).to_le_bytes(), (samples.len() as u64).to_le_bytes(), [0; 8]].concat();
    let head: [&[u8]; 6] =
        [b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0", &sizes, &[0; 4], &speech[12..at], &[255; 4], samples];
    let wide = head.concat();
    assert_eq!(heard(wide.clone()), whole);
    assert!(refused(&wide[..wide.len() - 2]).contains("truncated"));
    let aiff = file("plain.aiff");
    let sound = aiff.windows(4).position(|name| name == b"SSND").unwrap() + 4;
    for size in [0, 0x7fff_ffffu32, u32::MAX] {
        let mut unknown = aiff.clone();
        unknown[sound..sound + 4].copy_from_slice(&size.to_be_bytes());
        unknown[4..8].copy_from_slice(&size.to_be_bytes());
        assert_eq!(heard(unknown), whole, "{size}");
    }
    let mut law = file("law.au");
    let expected = heard(law.clone());
    law[8..12].fill(255);
    assert_eq!(heard(law), expected);
}

#[test]
fn a_stated_length_must_be_there() {
    let speech = speech();
    assert!(refused(&speech[..speech.len() - 2]).contains("truncated"));
    for name in ["plain.aiff", "law.au", "alac.m4a", "alac.caf", "browser.webm", "voice.ogg", "delay.m4a"] {
        let bytes = file(name);
        let message = refused(&bytes[..bytes.len() * 7 / 10]);
        assert!(["truncated", "cut off", "prematurely"].iter().any(|word| message.contains(word)), "{name}: {message}");
    }
}

#[test]
fn mp3_with_a_large_cover_and_joined_mp3_are_heard_whole() {
    let (vbr, tone) = (file("vbr.mp3"), std::fs::read(testkit::media().join("tone.mp3")).unwrap());
    let alone = heard(vbr.clone());
    const COVER: u32 = 3 << 20;
    let size = [21, 14, 7, 0].map(|shift| (COVER >> shift & 0x7f) as u8);
    let cover = [b"ID3\x03\0\0".as_slice(), &size, &vec![0xff; COVER as usize]].concat();
    assert_eq!(heard([cover.as_slice(), &vbr].concat()), alone);
    // At another rate, and with a count of frames for the first of them alone.
    for [first, second] in [[&tone, &vbr], [&vbr, &tone], [&tone, &tone]] {
        let both = heard([first.as_slice(), second].concat());
        let each = heard(first.clone()).len() + heard(second.clone()).len();
        assert!(both.len().abs_diff(each) < 2500, "{} samples, expected about {each}", both.len());
    }
}

/// The first stream is decoded here; where the second begins, the installed ffmpeg takes over.
#[test]
fn chained_ogg_streams_are_heard_one_after_the_other() {
    let (voice, alone) = (file("voice.ogg"), heard(file("voice.ogg")));
    let mut second = voice.clone();
    set_serial(&mut second);
    let both = heard([voice, second].concat());
    assert!(both.len().abs_diff(2 * alone.len()) < 400, "{} samples of twice {}", both.len(), alone.len());
    let (correlation, _) = likeness(&both, &alone, 0);
    let (again, level) = likeness(&both, &alone, both.len() - alone.len());
    assert!(correlation > 0.995 && again > 0.9 && level.abs() < 0.2, "{correlation}, {again}, {level} dB");
}

/// Gives the stream another number, and its pages the right checksums.
fn set_serial(ogg: &mut [u8]) {
    let pages: Vec<usize> = (0..ogg.len()).filter(|at| ogg[*at..].starts_with(b"OggS")).collect();
    pages.into_iter().for_each(|page| ogg[page + 14] ^= 0x55);
    testkit::repair_ogg(ogg);
}

#[test]
fn the_channels_are_mixed_to_their_mean_by_either_reader() {
    let mean = heard(speech()).iter().map(|sample| sample * 2.9 / 6.0).collect::<Vec<_>>();
    for name in ["surround.m4a", "surround.opus"] {
        let (correlation, level) = likeness(&heard(file(name)), &mean, 0);
        assert!(correlation > 0.9 && level.abs() < 0.5, "{name}: correlation {correlation}, level {level} dB");
    }
}

#[test]
fn what_ffmpeg_could_take_for_a_list_of_other_files_is_no_sound() {
    let blank = " ".repeat(1200) + "<MPD/>";
    for list in [
        "#EXTM3U\n#EXTINF:1,\nother.wav\n",
        "ffconcat version 1.0\nfile other.wav\n",
        "<?xml version=\"1.0\"?><MPD/>",
        "<!-- x --><MPD/>",
        &blank,
    ] {
        assert!(refused(list.as_bytes()).contains("names other files"), "{list}");
    }
    // ffmpeg looks for formats behind a tag, too.
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret.ts");
    std::fs::write(&secret, file("stream.ts")).unwrap();
    let list = format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{}\n#EXT-X-ENDLIST\n", secret.display());
    for tag in [&b"ID3\x04\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0"[..], b"\xff\xfe\0\0"] {
        refused([tag, list.as_bytes()].concat());
    }
}

#[test]
fn samples_far_beyond_full_scale_are_named_and_tiny_ones_are_taken() {
    for rate in [8_000, 16_000, 44_100, 48_000, 192_000] {
        let loud = read(&AudioInput::samples(vec![1e36; 9000], rate, 1)).unwrap_err().to_string();
        assert!(loud.contains("sample 0 is 1e36"), "{loud}");
        for value in [1e-40, -1e-45, f32::MIN_POSITIVE, 1e11, -2e9] {
            let samples: Vec<f32> = (0..30_000).map(|i| if i % 7 < 3 { value } else { -value / 3.0 }).collect();
            assert!(read(&AudioInput::samples(samples, rate, 1)).unwrap().iter().all(|sample| sample.is_finite()));
        }
    }
}
