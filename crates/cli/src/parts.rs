//! The parts of a message, in the order of the command line.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use qwen3_omni::media::{Kind, Source, kind};
use qwen3_omni::{AudioInput, Error, ImageInput, Message, Part, PartKind, Result, VideoInput, VideoSound};

/// Texts and files in any order. Written out by hand, since derived arguments lose the order among flags.
#[derive(Debug, Clone)]
pub struct Parts(Vec<Given>);

#[derive(Debug, Clone)]
enum Given {
    /// Text, or the name of a file.
    Plain(OsString),
    Text(OsString),
    File(PartKind, OsString),
}

const PLAIN: &str = "parts";
const FLAGS: [(PartKind, &str, &str); 4] = [
    (PartKind::Text, "text", "Text, even if a file has this name; may be repeated"),
    (PartKind::Image, "image", "A picture; may be repeated"),
    (PartKind::Audio, "audio", "A recording; may be repeated"),
    (PartKind::Video, "video", "A video; may be repeated"),
];

impl Args for Parts {
    fn augment_args(command: Command) -> Command {
        let plain = Arg::new(PLAIN)
            .value_name("TEXT|FILE")
            .help("Texts and files, in any order; - reads a text from standard input")
            .long_help(
                "Texts and files, in any order. An argument that names a file is that file, whose kind is told by its contents; \
                 everything else is text. - reads a text from standard input.",
            )
            .num_args(0..)
            .action(ArgAction::Append)
            .value_parser(clap::value_parser!(OsString));
        let flag = |(kind, name, help): (PartKind, &'static str, &'static str)| {
            let value = if kind == PartKind::Text { "TEXT" } else { "FILE" };
            let parser = clap::value_parser!(OsString);
            Arg::new(name).long(name).value_name(value).help(help).action(ArgAction::Append).value_parser(parser)
        };
        command.arg(plain).args(FLAGS.map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Parts {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given: Vec<(usize, Given)> = Vec::new();
        let mut add = |name: &str, make: &dyn Fn(OsString) -> Given| {
            let values = matches.get_many::<OsString>(name).into_iter().flatten().cloned();
            given.extend(matches.indices_of(name).into_iter().flatten().zip(values.map(make)));
        };
        add(PLAIN, &Given::Plain);
        for (kind, name, _) in FLAGS {
            match kind {
                PartKind::Text => add(name, &Given::Text),
                kind => add(name, &move |file| Given::File(kind, file)),
            }
        }
        given.sort_by_key(|(index, _)| *index);
        Ok(Self(given.into_iter().map(|(_, given)| given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Parts {
    /// Reads standard input if it is named, and tells what each file is.
    ///
    /// # Errors
    /// [`Error::Request`] if there is nothing, or for a missing file; [`Error::Media`] for a file that is of no known kind.
    pub fn message(self) -> Result<Message> {
        if self.0.is_empty() {
            return Err(Error::Request("nothing is asked: expected text or files".into()));
        }
        let mut parts = self.0.into_iter().enumerate();
        parts.try_fold(Message::user(), |message, (index, given)| {
            let name = || format!("part {}", index + 1);
            Ok(message.part(match given {
                Given::Plain(word) if word == "-" => Part::Text(standard_input()?),
                Given::Plain(word) if names_file(&word)? => file(Path::new(&word), &name())?,
                Given::Plain(text) | Given::Text(text) => Part::Text(utf8(text)?),
                Given::File(kind, file) => part(kind, PathBuf::from(file).into()),
            }))
        })
    }
}

/// The part that a file is, told by its contents.
///
/// # Errors
/// [`Error::Media`] naming `part` for a file that cannot be read, or is of no known kind.
pub fn file(path: &Path, part_name: &str) -> Result<Part> {
    let source = Source::from(path);
    let kind = kind(&source).map_err(|error| error.in_part(part_name))?;
    let kind = match kind {
        Kind::Sound => PartKind::Audio,
        Kind::Picture => PartKind::Image,
        Kind::Video => PartKind::Video,
    };
    Ok(part(kind, source))
}

fn part(kind: PartKind, source: Source) -> Part {
    match kind {
        PartKind::Image => Part::Image(ImageInput::from(source)),
        PartKind::Video => Part::Video { video: VideoInput::from(source), sound: VideoSound::Auto },
        _ => Part::Audio(AudioInput::from(source)),
    }
}

/// What files with media in them are called.
const EXTENSIONS: &str = " wav mp3 flac ogg oga opus m4a m4b aac aif aiff au caf amr wma mka weba mp1 mp2 png jpg jpeg webp gif bmp tif \
                          tiff heic heif avif mp4 m4v mov mkv webm avi mpg mpeg ts mts wmv flv 3gp ogv ";

/// Whether an argument is a file rather than text.
///
/// # Errors
/// [`Error::Io`] for what looks like a file and is none: a mistyped name must not be asked as text.
fn names_file(word: &OsStr) -> Result<bool> {
    let path = Path::new(word);
    match std::fs::metadata(path) {
        Ok(found) => Ok(!found.is_dir()),
        Err(source) if looks_like_file(path) => {
            let reason = format!("{source} (--text takes it as text)");
            Err(Error::io(path, std::io::Error::new(source.kind(), reason)))
        }
        Err(_) => Ok(false),
    }
}

fn looks_like_file(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let is_media = extension.is_some_and(|end| !end.contains(' ') && EXTENSIONS.contains(&format!(" {end} ")));
    let is_path = ["/", "./", "../", "~/", ".\\", "..\\"].iter().any(|start| text.starts_with(start));
    is_media || is_path && !text.contains(char::is_whitespace)
}

/// The text on standard input, without the end of its last line.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, or is not UTF-8.
pub fn standard_input() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|source| Error::io("standard input", source))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn utf8(text: OsString) -> Result<String> {
    text.into_string().map_err(|text| Error::Request(format!("{text:?} is neither a file nor a text in UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_names_are_not_taken_for_text() {
        for name in ["no-such.wav", "no/such/clip.MP4", "my holiday.jpeg", "./recording", "/no/such/file", "~/x"] {
            let error = names_file(OsStr::new(name)).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains("--text"), "{error}");
        }
        for text in ["what is seven plus five", "3.14", "Hello.", "and/or", "/ is a slash", "what is a .wav file"] {
            assert!(!names_file(OsStr::new(text)).unwrap(), "{text}");
        }
        assert!(names_file(OsStr::new("Cargo.toml")).unwrap());
        assert!(!names_file(OsStr::new("src")).unwrap());
    }

    #[test]
    fn parts_keep_the_order_of_the_command_line() {
        let command = Parts::augment_args(Command::new("ask"));
        let line =
            ["ask", "one", "--audio", "a.wav", "two", "--image", "b.png", "--text", "Cargo.toml", "--audio", "c.wav"];
        let parts = Parts::from_arg_matches(&command.get_matches_from(line)).unwrap();
        let kinds: Vec<&str> = parts.message().unwrap().parts().iter().map(|part| part.kind().name()).collect();
        assert_eq!(kinds, ["text", "audio", "text", "image", "text", "audio"]);
    }
}
