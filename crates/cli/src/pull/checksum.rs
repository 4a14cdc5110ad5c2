//! Checksums that hubs give in entity tags.

use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The checksum of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    algorithm: Algorithm,
    /// Lower-case hexadecimal digits.
    digits: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha1,
}

impl Checksum {
    /// Reads an entity tag. Hugging Face gives the SHA-256 of a file in Git LFS, and git's object name (a SHA-1) of any other; a tag of
    /// another form says nothing about the content.
    pub fn of_etag(etag: &str) -> Option<Self> {
        let digits = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_ascii_lowercase();
        let algorithm = match digits.len() {
            64 => Algorithm::Sha256,
            40 => Algorithm::Sha1,
            _ => return None,
        };
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(Self { algorithm, digits })
    }

    /// Whether a content of this length has the checksum.
    ///
    /// # Errors
    /// The errors of `content`.
    pub fn matches(&self, length: u64, content: impl Read) -> io::Result<bool> {
        let found = match self.algorithm {
            Algorithm::Sha256 => hash([Sha256::new()], content)?.to_vec(),
            // Mirrors that know nothing of git hash the content alone.
            Algorithm::Sha1 => {
                hash([Sha1::new_with_prefix(format!("blob {length}\0")), Sha1::new()], content)?.to_vec()
            }
        };
        Ok(found.contains(&self.digits))
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.algorithm {
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Sha1 => "SHA-1",
        };
        write!(f, "{name} {}", self.digits)
    }
}

/// Hashes a content with several digests at once, into hexadecimal digits.
fn hash<D: Digest, const N: usize>(mut digests: [D; N], mut content: impl Read) -> io::Result<[String; N]> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => digests.iter_mut().for_each(|digest| digest.update(&buffer[..count])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(digests.map(|digest| digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_hubs_are_checked() {
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        // As `git hash-object` and `sha1sum` print it.
        let (git, plain) = ("ce013625030ba8dba906f756967f9e9ca394464a", "f572d396fae9206628714fb2ce00f72e94f2258f");
        let weak = format!("W/\"{}\"", git.to_uppercase());
        for etag in [sha256, git, plain, &weak] {
            let checksum = Checksum::of_etag(etag).unwrap();
            assert!(checksum.matches(6, &b"hello\n"[..]).unwrap(), "{checksum}");
            assert!(!checksum.matches(6, &b"hellp\n"[..]).unwrap(), "{checksum}");
        }
    }

    #[test]
    fn other_tags_say_nothing() {
        for etag in
            ["", "abc", "d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e-2", &"g".repeat(64)]
        {
            assert_eq!(Checksum::of_etag(etag), None, "{etag}");
        }
    }
}
