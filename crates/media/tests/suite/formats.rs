//! Every supported format is read, with the right pitch, pixels, frames and lengths.

use std::io::Cursor;

use qwen3_omni_media::Source;
use qwen3_omni_media::audio::{AudioInput, log_mel, read};
use qwen3_omni_media::image::{ImageInput, ImageOptions, Pixels, grid, patches};
use qwen3_omni_media::video::{VideoInput, VideoOptions, VideoSampling, clip, has_sound, plan, sample_indices};

fn file(name: &str) -> Source {
    testkit::media().join(name).into()
}

fn in_memory(name: &str) -> Source {
    std::fs::read(testkit::media().join(name)).unwrap().into()
}

/// The frequency, from upward zero crossings.
fn pitch(samples: &[f32]) -> f32 {
    let crossings = samples.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    crossings as f32 * 16_000.0 / samples.len() as f32
}

#[test]
fn every_sound_format_gives_the_tone_at_its_pitch_and_length() {
    for name in ["tone.flac", "tone.mp3", "tone.ogg", "tone.m4a", "tone.opus"] {
        let samples = read(&file(name).into()).unwrap();
        assert!((16_000..=17_200).contains(&samples.len()), "{name}: {}", samples.len());
        assert!((pitch(&samples[1000..15_000]) - 440.0).abs() < 2.0, "{name}");
        // FFmpeg's sine has an eighth of full scale.
        let loudest = samples.iter().fold(0f32, |a, b| a.max(b.abs()));
        assert!((0.11..0.15).contains(&loudest), "{name}: {loudest}");
        assert_eq!(samples, read(&in_memory(name).into()).unwrap(), "{name}");
    }
}

fn wav(rate: u32, channels: u16, bits: u16, format: hound::SampleFormat, samples: &[f32]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let spec = hound::WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format: format };
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for sample in samples {
        match format {
            hound::SampleFormat::Float => writer.write_sample(*sample).unwrap(),
            hound::SampleFormat::Int => {
                writer.write_sample((f64::from(*sample) * 2f64.powi(i32::from(bits) - 1)) as i32).unwrap();
            }
        }
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

#[test]
fn wav_of_any_depth_rate_and_channel_count_is_mixed_to_one_channel_at_16_khz() {
    use hound::SampleFormat::{Float, Int};
    for (rate, channels, bits, format) in [
        (16_000, 1, 16, Int),
        (8_000, 1, 8, Int),
        (48_000, 2, 24, Int),
        (44_100, 1, 32, Int),
        (192_000, 8, 16, Int),
        (22_050, 3, 32, Float),
    ] {
        // The mean over the channels is a tone of a quarter of full scale.
        let frames = rate as usize / 4;
        let tone = |i: usize| (std::f32::consts::TAU * 500.0 * i as f32 / rate as f32).sin() * 0.25;
        let spread = |c: u16| if channels == 1 { 1.0 } else { 2.0 * f32::from(c) / f32::from(channels - 1) };
        let samples: Vec<f32> = (0..frames).flat_map(|i| (0..channels).map(move |c| tone(i) * spread(c))).collect();
        let mixed = read(&wav(rate, channels, bits, format, &samples).into()).unwrap();
        assert_eq!(mixed.len(), (frames * 16_000).div_ceil(rate as usize), "{rate}/{channels}");
        let expected = |i: usize| (std::f32::consts::TAU * 500.0 * i as f32 / 16_000.0).sin() * 0.25;
        let error = (500..3000).map(|i| (mixed[i] - expected(i)).abs()).fold(0.0, f32::max);
        assert!(error < if bits == 8 { 0.012 } else { 2e-3 }, "{rate}/{channels}/{bits}: {error}");
    }
}

#[test]
fn samples_of_a_file_are_those_of_its_16_bit_numbers() {
    let samples: Vec<f32> = (-100..400).map(|i| i as f32 * 80.0 / 32768.0).collect();
    let read = read(&wav(16_000, 1, 16, hound::SampleFormat::Int, &samples).into()).unwrap();
    assert_eq!(read, samples);
}

#[test]
fn mel_frames_of_pieces_equal_those_of_the_whole_and_batches_pad_the_shorter_item() {
    use qwen3_omni_media::audio::MelStream;
    let samples: Vec<f32> = (0..20_123).map(|i| ((i * i % 977) as f32 / 977.0 - 0.5) * (i as f32 / 2e4)).collect();
    let whole = &log_mel(&[AudioInput::samples(samples.clone(), 16_000, 1)]).unwrap()[0];
    assert_eq!(whole.frames(), 125);
    for piece in [1, 160, 399, 7000] {
        let mut stream = MelStream::new();
        samples.chunks(piece).for_each(|piece| stream.push(piece).unwrap());
        assert_eq!(&stream.finish().unwrap(), whole, "pieces of {piece}");
    }
    let long = AudioInput::samples(vec![0.1; 40_000], 16_000, 1);
    let batch = log_mel(&[AudioInput::samples(samples, 16_000, 1), long]).unwrap();
    assert_eq!((batch[0].frames(), batch[1].frames()), (126, 250));
    let (a, b) = (&whole.values()[..120 * 128], &batch[0].values()[..120 * 128]);
    assert_eq!(a, b);
    // Too short to be reflected at its edges, but not once it is padded.
    let padded: Vec<f32> = (0..150).map(|i| (i as f32 * 0.3).sin()).chain(vec![0.0; 4850]).collect();
    let [short, padded] = [&padded[..150], &padded[..]].map(|samples| AudioInput::samples(samples, 16_000, 1));
    let long = AudioInput::samples(vec![0.1; 5_000], 16_000, 1);
    let batch = log_mel(&[short, padded, long]).unwrap();
    assert_eq!((batch[0].frames(), batch[0].values()), (1, &batch[1].values()[..128]));
}

fn pixels(name: &str) -> Pixels {
    ImageInput::from(file(name)).pixels().unwrap().into_owned()
}

#[test]
fn every_picture_format_gives_the_same_picture_upright() {
    let expected = pixels("picture.png");
    assert_eq!((expected.width(), expected.height()), (48, 32));
    assert_eq!(expected.rgb()[(3 * 48 + 30) * 3..][..3], [150, 21, 40]);
    for (name, tolerance) in
        [("picture.bmp", 0), ("picture.webp", 0), ("picture.gif", 60), ("picture.jpg", 60), ("turned.jpg", 60)]
    {
        let found = pixels(name);
        assert_eq!((found.width(), found.height()), (48, 32), "{name}");
        let errors = found.rgb().iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b));
        let (worst, sum) = errors.fold((0, 0), |(worst, sum), e| (worst.max(e), sum + u32::from(e)));
        assert!(worst <= tolerance && sum / (48 * 32 * 3) < 8, "{name}: {worst}, {sum}");
        assert_eq!(found, ImageInput::from(in_memory(name)).pixels().unwrap().into_owned());
    }
}

#[test]
fn tiff_is_read_exactly_and_upright() {
    let expected = pixels("picture.png");
    for name in ["picture.tif", "turned.tif"] {
        assert_eq!(pixels(name), expected, "{name}");
    }
    let coarse = expected.rgb().iter().map(|value| value / 64 * 64).collect();
    assert_eq!(pixels("palette.tif"), Pixels::new(48, 32, coarse).unwrap());
    // Black and white where Pillow has them, whose count of white is this.
    let fax = pixels("fax.tif");
    let white = fax.rgb().iter().filter(|value| **value == 255).count();
    assert_eq!((fax.width(), fax.height(), white), (48, 32, 2376));
}

/// Largest and mean difference from the colours that a formula gives.
fn differences(found: &Pixels, expected: impl Fn(usize, usize) -> [u8; 3]) -> (u8, f64) {
    let (mut worst, mut sum) = (0, 0);
    for (index, pixel) in found.rgb().chunks_exact(3).enumerate() {
        let wanted = expected(index % found.width(), index / found.width());
        for difference in pixel.iter().zip(wanted).map(|(value, wanted)| value.abs_diff(wanted)) {
            worst = worst.max(difference);
            sum += u64::from(difference);
        }
    }
    (worst, sum as f64 / found.rgb().len() as f64)
}

#[test]
fn heic_and_avif_have_their_sizes_colours_and_orientation() {
    let picture = |x: usize, y: usize| [(x * 5) as u8, (y * 7) as u8, if x < 24 { 200 } else { 40 }];
    for name in ["picture.heic", "picture.avif", "turned.avif"] {
        let found = pixels(name);
        assert_eq!((found.width(), found.height()), (48, 32), "{name}");
        // Chroma has half the resolution, which shows at the edge of the blue half.
        let (_, mean) = differences(&found, picture);
        assert!(mean < 3.5, "{name}: {mean}");
    }
    // Four tiles of 64 × 64, cut to 100 × 90; blue changes where the tiles meet.
    let scene = |x: usize, y: usize| [40 + x * 3 / 2, 30 + y * 3 / 2, if x < 64 { 200 } else { 60 }].map(|v| v as u8);
    let grid = pixels("grid.heic");
    assert_eq!((grid.width(), grid.height()), (100, 90));
    assert!(differences(&grid, scene).0 <= 6);
    // A quarter turn against the clock, then top and bottom exchanged: rows become columns.
    let turned = pixels("grid_turned.heic");
    assert_eq!((turned.width(), turned.height()), (90, 100));
    assert!(differences(&turned, |x, y| scene(y, x)).0 <= 6);
    // Transparency grows from left to right and lies over white.
    let clear = pixels("clear.avif");
    let over_white = |x: usize, y: usize| {
        let alpha = (x * 255 / 47) as u32;
        picture(x, y).map(|value| ((u32::from(value) * alpha + 255 * (255 - alpha)) / 255) as u8)
    };
    assert!(differences(&clear, over_white).1 < 3.5);
}

#[test]
fn sizes_come_from_headers_upright() {
    for name in
        ["picture.png", "picture.jpg", "turned.jpg", "picture.webp", "picture.gif", "picture.bmp", "picture.tif"]
            .into_iter()
            .chain(["turned.tif", "palette.tif", "picture.heic", "turned.avif", "clear.avif"])
    {
        assert_eq!(ImageInput::from(file(name)).size().unwrap(), [32, 48], "{name}");
    }
    assert_eq!(ImageInput::from(file("grid_turned.heic")).size().unwrap(), [100, 90]);
    let (options, name) = (ImageOptions::default(), file("turned.jpg"));
    assert_eq!(grid(&name.clone().into(), &options).unwrap(), patches(&name.into(), &options).unwrap().grid());
}

#[test]
fn pixels_bytes_and_files_make_the_same_patches() {
    let options = ImageOptions::default();
    let from_file = patches(&file("picture.png").into(), &options).unwrap();
    assert_eq!(patches(&in_memory("picture.png").into(), &options).unwrap(), from_file);
    assert_eq!(patches(&pixels("picture.png").into(), &options).unwrap(), from_file);
}

#[test]
fn videos_are_sampled_with_their_effective_rate() {
    let options = VideoOptions::default();
    for (name, frames, rate) in [
        ("clip.mp4", 4, 2.0),
        // Seven frames in 1.7 s: four of them are taken.
        ("clip_vfr.mp4", 4, 4.0 / 1.7),
        ("silent.mp4", 4, 4.0),
        // Read by the installed ffmpeg.
        ("clip.webm", 4, 2.0),
    ] {
        for source in [file(name), in_memory(name)] {
            let clip = clip(&source.into(), &options).unwrap();
            assert_eq!(clip.patches().grid()[0] * 2, frames, "{name}");
            assert!((clip.frames_per_second() - rate).abs() < 0.02, "{name}: {}", clip.frames_per_second());
            assert!((f64::from(clip.seconds_per_step()) - 2.0 / clip.frames_per_second()).abs() < 1e-6);
        }
    }
    // At some times more frames are asked for than the variable rate has: the frame shown then is taken again.
    let dense = options.min_frames(6).frames_per_second(10.0);
    assert_eq!(clip(&file("clip_vfr.mp4").into(), &dense).unwrap().patches().grid()[0], 3);
    let more = options.frames_per_second(10.0).max_frames(13);
    assert_eq!(clip(&file("clip.mp4").into(), &more).unwrap().patches().grid()[0], 6);
}

#[test]
fn both_readers_see_the_same_pictures() {
    let options = VideoOptions::default();
    let [mp4, webm] = ["clip.mp4", "clip.webm"].map(|name| clip(&file(name).into(), &options).unwrap());
    assert_eq!(mp4.patches().grid(), webm.patches().grid());
    let (mp4, webm) = (mp4.patches().colours(), webm.patches().colours());
    let sum: u64 = mp4.iter().zip(webm).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = sum as f64 / mp4.len() as f64;
    assert!(mean < 6.0, "{mean}");
}

#[test]
fn the_sound_of_a_video_is_read_from_either_container() {
    for name in ["clip.mp4", "clip.webm", "sound_only.mp4"] {
        let samples = read(&AudioInput::SoundTrack(file(name))).unwrap();
        let seconds = if name == "sound_only.mp4" { 1.0 } else { 2.0 };
        assert!((samples.len() as f32 / 16_000.0 - seconds).abs() < 0.15, "{name}: {}", samples.len());
        assert!(samples.iter().any(|sample| sample.abs() > 0.2), "{name}");
    }
}

#[test]
fn pictures_and_frames_make_a_video_as_they_are() {
    let options = VideoOptions::default();
    let from_files = VideoInput::images(vec![file("picture.png"); 3], 1.5);
    let from_pixels = VideoInput::frames(vec![pixels("picture.png"); 3], 1.5);
    let [a, b] = [from_files, from_pixels].map(|input| clip(&input, &options).unwrap());
    assert_eq!(a, b);
    assert_eq!((a.patches().grid()[0], a.frames_per_second()), (2, 1.5));
}

#[test]
fn a_video_is_counted_before_it_is_decoded() {
    let options = VideoOptions::default();
    for input in [
        VideoInput::from(file("clip.mp4")),
        in_memory("clip.mp4").into(),
        file("clip.webm").into(),
        VideoInput::images(vec![file("picture.png"); 3], 1.5),
    ] {
        let plan = plan(&input, &options).unwrap();
        let (grid, tokens, seconds) = (plan.grid(), plan.tokens(), plan.seconds_per_step());
        let clip = plan.clip().unwrap();
        assert_eq!((clip.patches().grid(), clip.seconds_per_step()), (grid, seconds), "{input:?}");
        assert_eq!(clip.patches().patches(), tokens * 4);
    }
}

/// What the video processor of `transformers` 5.24 does with `cap_pixels_per_frame`.
#[test]
fn frames_share_a_total_as_in_the_reference() {
    let frames =
        |count| VideoInput::frames(vec![Pixels::new(1920, 1080, vec![0; 1920 * 1080 * 3]).unwrap(); count], 2.0);
    let size = |count, budget| {
        let options = VideoOptions::default().token_budget(budget);
        let [t, h, w] = plan(&frames(count), &options).unwrap().grid();
        assert_eq!(t, count / 2);
        [h * 16, w * 16]
    };
    assert_eq!(
        [size(2, 115_200), size(4, 1000), size(8, 1000), size(40, 1000)],
        [[640, 1152], [512, 928], [352, 672], [256, 480]]
    );
    let options = VideoOptions::default().max_tokens(1000);
    let message = plan(&frames(4), &options).unwrap_err().to_string();
    for named in
        ["1440 tokens, at most 1000", "`frames_per_second` (2)", "`max_frames` (768)", "`token_budget`", "`bounds`"]
    {
        assert!(message.contains(named), "{message}");
    }
}

/// `torch.linspace(0, frames - 1, n).round()`, which `qwen-omni-utils` 0.0.9 takes.
#[test]
fn the_utilities_take_first_and_last() {
    let indices = |frames, rate, sampling| sample_indices(frames, rate, &VideoOptions::default().sampling(sampling));
    assert_eq!(indices(10, 10.0, VideoSampling::Utilities), [0, 3, 6, 9]);
    assert_eq!(indices(10, 10.0, VideoSampling::Processor), [0, 2, 5, 7]);
    let twelve = [0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23];
    assert_eq!(indices(24, 4.0, VideoSampling::Utilities), twelve);
    // Without the single rounding, number 461 would be the frame before.
    let options = VideoOptions::default().sampling(VideoSampling::Utilities).max_frames(650);
    let long = sample_indices(16_352, 25.0, &options);
    assert_eq!((long.len(), long[460], long[461], long[649]), (650, 11_589, 11_615, 16_351));
    let options = VideoOptions::default().sampling(VideoSampling::Utilities);
    let ends = clip(&file("clip.mp4").into(), &options).unwrap();
    assert_eq!((ends.patches().grid()[0], ends.frames_per_second()), (2, 2.0));
    assert_ne!(ends, clip(&file("clip.mp4").into(), &VideoOptions::default()).unwrap());
}

#[test]
fn sound_is_found_without_decoding() {
    for (name, expected) in [("clip.mp4", true), ("clip.webm", true), ("sound_only.mp4", true), ("silent.mp4", false)] {
        for source in [file(name), in_memory(name)] {
            assert_eq!(has_sound(&source.into()).unwrap(), expected, "{name}");
        }
    }
    assert!(!has_sound(&VideoInput::frames(Vec::new(), 1.0)).unwrap());
}

#[test]
fn a_stream_that_begins_inside_a_group_of_pictures_is_read() {
    // The first 50 of its frames cannot be decoded; each makes ffmpeg say so.
    let clip = clip(&file("joined.ts").into(), &VideoOptions::default()).unwrap();
    assert_eq!((clip.patches().grid()[0], clip.frames_per_second()), (2, 4.0));
}
