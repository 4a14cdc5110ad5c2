//! The page at `/`: files inside the program.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::app::App;

struct File {
    path: &'static str,
    kind: &'static str,
    contents: &'static [u8],
}

macro_rules! files {
    ($($name:literal: $kind:ident,)*) => {
        &[$(File { path: concat!("/", $name), kind: $kind, contents: include_bytes!(concat!("../page/", $name)) }),*]
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";
const INDEX: &[u8] = include_bytes!("../page/index.html");

const FILES: &[File] = files!(
    "app.js": SCRIPT,
    "conversation.js": SCRIPT,
    "icon.svg": PICTURE,
    "pcm.js": SCRIPT,
    "pending-picture.js": SCRIPT,
    "pictures.js": SCRIPT,
    "player-worklet.js": SCRIPT,
    "player.js": SCRIPT,
    "realtime.js": SCRIPT,
    "recorder-worklet.js": SCRIPT,
    "recorder.js": SCRIPT,
    "style.css": STYLE,
    "voice-chat.js": SCRIPT,
);

/// Only the server's own files and itself: a page that shows what others wrote must not run it.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; media-src 'self' blob:; \
                      worker-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

pub(crate) fn routes() -> Router<Arc<App>> {
    let index = get(|| async { answer("text/html; charset=utf-8", INDEX) });
    FILES.iter().fold(Router::new().route("/", index), |routes, file| {
        routes.route(file.path, get(move || async move { answer(file.kind, file.contents) }))
    })
}

fn answer(kind: &'static str, contents: &'static [u8]) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        // A newer program has a newer page.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("permissions-policy"), HeaderValue::from_static("microphone=(self), camera=(self)")),
    ];
    (headers, contents).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served_and_nothing_is_asked_of_others() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| format!("/{}", entry.unwrap().file_name().into_string().unwrap()))
            .filter(|name| name != "/index.html")
            .collect();
        names.sort();
        let served: Vec<&str> = FILES.iter().map(|file| file.path).collect();
        assert_eq!(names, served);
        for contents in FILES.iter().map(|file| file.contents).chain([INDEX]) {
            let text = std::str::from_utf8(contents).unwrap().replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("https://") && !text.contains("http://"), "an address of another server");
        }
    }
}
