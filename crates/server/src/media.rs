//! Media of requests: data in the request, or addresses from which they are fetched.

#[cfg(feature = "remote-media")]
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use percent_encoding::percent_decode_str;
use qwen3_omni::ImageInput;
use qwen3_omni::media::Source;

use crate::config::Config;
use crate::error::{ApiError, ApiResult};
#[cfg(feature = "remote-media")]
use crate::fetch::Fetcher;

/// Characters of a `data:` address before its data.
const MOST_HEAD: usize = 256;

pub(crate) struct MediaReader {
    max_pixels: usize,
    /// Bytes that are fetched for a request.
    #[cfg(feature = "remote-media")]
    most_bytes: usize,
    #[cfg(feature = "remote-media")]
    fetcher: Fetcher,
}

impl MediaReader {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_pixels: config.max_pixels,
            #[cfg(feature = "remote-media")]
            most_bytes: config.max_body,
            #[cfg(feature = "remote-media")]
            fetcher: Fetcher::new(&config.allowed_media_hosts, config.body_time.min(config.request_time)),
        }
    }

    /// The media of one request, or of one event of a session, which together are no larger than its body might be and are fetched within
    /// the time that a body has.
    pub(crate) fn of_request(&self) -> RequestMedia<'_> {
        RequestMedia {
            reader: self,
            fetched: Fetched::default(),
            #[cfg(feature = "remote-media")]
            left: Cell::new(self.most_bytes),
            #[cfg(feature = "remote-media")]
            fetcher: self.fetcher.of_request(),
        }
    }

    /// Checks the size of a picture by its header.
    ///
    /// # Errors
    /// 400 `invalid_image`.
    fn check_picture(&self, picture: &ImageInput, param: &str) -> ApiResult<()> {
        let wrong = |message: String| ApiError::invalid(param, message).code("invalid_image");
        let [height, width] = picture.size().map_err(|error| wrong(error.to_string()))?;
        if height.saturating_mul(width) > self.max_pixels {
            return Err(wrong(format!("{width} × {height} pixels, expected at most {}", self.max_pixels)));
        }
        Ok(())
    }
}

/// Whether something would have to be fetched from this address.
pub(crate) fn is_remote(url: &str) -> bool {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Files that were fetched before their request is read, by their addresses.
#[derive(Debug, Default)]
pub(crate) struct Fetched(HashMap<String, ApiResult<Source>>);

/// Held by who waits for a request: sets its flag when that has gone.
#[derive(Default)]
pub(crate) struct Awaited(Arc<AtomicBool>);

impl Awaited {
    /// The flag that [`RequestMedia::until`] looks at.
    pub(crate) fn over(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads the media of one request.
pub(crate) struct RequestMedia<'a> {
    reader: &'a MediaReader,
    fetched: Fetched,
    /// Bytes that may still be fetched.
    #[cfg(feature = "remote-media")]
    left: Cell<usize>,
    #[cfg(feature = "remote-media")]
    fetcher: Fetcher,
}

impl RequestMedia<'_> {
    /// Fetches the files at these addresses, each with the field that names it, up to the first that cannot be had. Blocks.
    pub(crate) fn fetch_all(&self, addresses: Vec<(String, String)>) -> Fetched {
        let mut fetched = HashMap::new();
        for (url, param) in addresses {
            let file = self.at_url(&url, &param);
            let ends = file.is_err();
            fetched.insert(url, file);
            if ends {
                break;
            }
        }
        Fetched(fetched)
    }

    /// The same, until `over` is set: then nobody waits for the request, and nothing more is fetched.
    #[cfg_attr(not(feature = "remote-media"), allow(unused_variables))]
    pub(crate) fn until(self, over: Arc<AtomicBool>) -> Self {
        #[cfg(feature = "remote-media")]
        return Self { fetcher: self.fetcher.until(over), ..self };
        #[cfg(not(feature = "remote-media"))]
        self
    }

    /// Takes files from those that were fetched already.
    pub(crate) fn with(self, fetched: Fetched) -> Self {
        Self { fetched, ..self }
    }

    /// Reads what an address names: `data:` holds it, `http(s):` is fetched if its host is allowed. Blocks.
    ///
    /// # Errors
    /// 400 that names `param`.
    pub(crate) fn at_url(&self, url: &str, param: &str) -> ApiResult<Source> {
        match url.split_once(':') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("data") => data(rest, param),
            _ if is_remote(url) => self.fetched.0.get(url).cloned().unwrap_or_else(|| self.fetch(url, param)),
            _ => {
                let message = "expected a data: or http(s): address; files of the server are never read for a client";
                Err(ApiError::invalid(param, message).code("remote_url_not_allowed"))
            }
        }
    }

    /// Reads the picture that an address names, and checks its size by its header. Blocks.
    ///
    /// # Errors
    /// 400 that names `param`.
    pub(crate) fn picture_at_url(&self, url: &str, param: &str) -> ApiResult<ImageInput> {
        let picture = ImageInput::from(self.at_url(url, param)?);
        self.reader.check_picture(&picture, param)?;
        Ok(picture)
    }

    #[cfg(feature = "remote-media")]
    fn fetch(&self, url: &str, param: &str) -> ApiResult<Source> {
        let bytes = self.fetcher.fetch(url, self.left.get(), param)?;
        self.left.set(self.left.get() - bytes.len());
        Ok(bytes.into())
    }

    #[cfg(not(feature = "remote-media"))]
    fn fetch(&self, _: &str, param: &str) -> ApiResult<Source> {
        let message = "this server was built without fetching; send the data itself as a data: address";
        Err(ApiError::invalid(param, message).code("remote_url_not_allowed"))
    }
}

/// Decodes base64.
///
/// # Errors
/// 400 `invalid_base64`.
pub(crate) fn base64(text: &str, param: &str) -> ApiResult<Source> {
    // A data address is read as well, which some clients send here.
    Source::from_base64(text).map_err(|error| ApiError::invalid(param, error).code("invalid_base64"))
}

/// The contents of a `data:` address, from behind its scheme.
fn data(rest: &str, param: &str) -> ApiResult<Source> {
    let comma = rest.find(',').filter(|comma| *comma <= MOST_HEAD);
    let comma = comma.ok_or_else(|| ApiError::invalid(param, "a data: address without a comma before its data"))?;
    let (head, data) = (&rest[..comma], &rest[comma + 1..]);
    match head.to_ascii_lowercase().ends_with(";base64") {
        true => base64(data, param),
        false => Ok(percent_decode_str(data).collect::<Vec<u8>>().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_read_in_both_forms_and_nothing_else_without_leave() {
        let reader = MediaReader::new(&Config::default());
        let media = reader.of_request();
        let bytes: &[u8] = b"RI\xff";
        for url in ["data:audio/wav;base64,Ukn/", "DATA:;BASE64,Ukn/", "data:,RI%FF", "data:audio/wav,RI%FF"] {
            assert_eq!(media.at_url(url, "u").unwrap(), bytes.into(), "{url}");
        }
        for (url, code) in [
            ("/etc/passwd", "remote_url_not_allowed"),
            ("file:///etc/passwd", "remote_url_not_allowed"),
            ("http://127.0.0.1:9/x.png", "remote_url_not_allowed"),
            ("data:image/png;base64,%%%", "invalid_base64"),
            ("data:image/png", "invalid_value"),
        ] {
            assert_eq!(media.at_url(url, "u").unwrap_err().code, code, "{url}");
        }
    }

    #[cfg(feature = "remote-media")]
    #[test]
    fn all_files_of_a_request_have_the_time_of_its_body_together() {
        use std::time::{Duration, Instant};
        // Connections are taken, and nobody answers.
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = host.local_addr().unwrap().to_string();
        let time = Duration::from_millis(300);
        let reader = MediaReader::new(&Config::default().allowed_media_hosts([&address]).body_time(time));
        let media = reader.of_request();
        let begun = Instant::now();
        for _ in 0..40 {
            media.at_url(&format!("http://{address}/a"), "u").unwrap_err();
        }
        assert!(begun.elapsed() < 20 * time, "each file has the whole time");
    }
}
