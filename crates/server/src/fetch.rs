//! Media by http(s), from hosts that were allowed by name, and never from addresses inside a network unless that host was named.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::config::Config as AgentConfig;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use url::Url;

use crate::error::{ApiError, ApiResult};

/// Redirects that are followed, each to an allowed host.
const MOST_REDIRECTS: usize = 3;
/// Bytes of a file that are read at a time.
const PIECE: usize = 1 << 14;

#[derive(Clone)]
pub(crate) struct Fetcher {
    /// Names, or `name:port`.
    allowed: Arc<[String]>,
    agent: Agent,
    /// Time for a file, redirects included, or for all files of a request.
    time: Duration,
    /// When the time of a request began.
    begun: Option<Instant>,
    /// Set when nobody waits for the request any longer.
    over: Arc<AtomicBool>,
}

impl Fetcher {
    pub(crate) fn new(allowed: &[String], time: Duration) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .build();
        let resolver = PublicResolver { named: allowed.to_vec(), inner: DefaultResolver::default() };
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Self { allowed: allowed.into(), agent, time, begun: None, over: Arc::default() }
    }

    /// A fetcher of all files of one request, which together have the time of one.
    pub(crate) fn of_request(&self) -> Self {
        Self { begun: Some(Instant::now()), over: Arc::default(), ..self.clone() }
    }

    /// The same fetcher, which ends when `over` is set.
    pub(crate) fn until(self, over: Arc<AtomicBool>) -> Self {
        Self { over, ..self }
    }

    /// Fetches the contents of an address, at most `most` bytes.
    ///
    /// # Errors
    /// 400: `remote_url_not_allowed` for a host that is not allowed or lies inside a network; otherwise what went wrong.
    pub(crate) fn fetch(&self, url: &str, most: usize, param: &str) -> ApiResult<Vec<u8>> {
        let invalid = |message: String| ApiError::invalid(param, message);
        let begun = self.begun.unwrap_or_else(Instant::now);
        let mut url = Url::parse(url).map_err(|error| invalid(format!("no valid address: {error}")))?;
        for _ in 0..=MOST_REDIRECTS {
            self.check(&url).map_err(|message| invalid(message).code("remote_url_not_allowed"))?;
            self.check_awaited(param)?;
            let left = self.time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(invalid(format!("it was not there within the {} s of this request", self.time.as_secs())));
            }
            let request = self.agent.get(url.as_str()).config().timeout_global(Some(left)).build();
            let response = request.call().map_err(|error| refused(param, &error))?;
            let status = response.status();
            if !status.is_redirection() {
                return match status.is_success() {
                    true => self.read(response.into_body(), most, param),
                    false => Err(invalid(format!("its host answered {}", status.as_u16()))),
                };
            }
            let target = response.headers().get("location").and_then(|location| location.to_str().ok());
            let target = target.and_then(|target| url.join(target).ok());
            url = target.ok_or_else(|| invalid("its host redirects to nowhere".into()))?;
        }
        Err(invalid(format!("its host redirects more than {MOST_REDIRECTS} times")))
    }

    fn read(&self, body: ureq::Body, most: usize, param: &str) -> ApiResult<Vec<u8>> {
        let (mut reader, mut bytes, mut piece) = (body.into_reader(), Vec::new(), [0; PIECE]);
        loop {
            self.check_awaited(param)?;
            let read = reader.read(&mut piece);
            let read = read.map_err(|error| ApiError::invalid(param, format_args!("it broke off: {error}")))?;
            bytes.extend_from_slice(&piece[..read]);
            if bytes.len() > most {
                let message = format!("it holds more than the {most} bytes that are left of this request's");
                return Err(ApiError::invalid(param, message));
            }
            if read == 0 {
                return Ok(bytes);
            }
        }
    }

    /// # Errors
    /// Once nobody waits for the file; the error reaches nobody.
    fn check_awaited(&self, param: &str) -> ApiResult<()> {
        match self.over.load(Ordering::Relaxed) {
            true => Err(ApiError::invalid(param, "nobody waits for it")),
            false => Ok(()),
        }
    }

    fn check(&self, url: &Url) -> Result<(), String> {
        let host = url.host_str().unwrap_or_default();
        if matches!(url.scheme(), "http" | "https") && is_named(&self.allowed, host, url.port_or_known_default()) {
            return Ok(());
        }
        Err("nothing is fetched from this host; send the data itself as a data: address".into())
    }
}

fn refused(param: &str, error: &ureq::Error) -> ApiError {
    let not_public = matches!(error, ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied);
    let refused = ApiError::invalid(param, format_args!("it cannot be fetched: {error}"));
    if not_public { refused.code("remote_url_not_allowed") } else { refused }
}

fn port_of(uri: &Uri) -> Option<u16> {
    let usual = match uri.scheme_str()? {
        "https" => 443,
        _ => 80,
    };
    Some(uri.port_u16().unwrap_or(usual))
}

fn is_named(allowed: &[String], host: &str, port: Option<u16>) -> bool {
    let with_port = format!("{host}:{}", port.unwrap_or_default());
    allowed.iter().any(|name| name.eq_ignore_ascii_case(host) || name.eq_ignore_ascii_case(&with_port))
}

/// Resolves names to addresses that are open to everybody. The connection goes to the address that was checked, so a name cannot change
/// its mind in between.
#[derive(Debug)]
struct PublicResolver<R> {
    /// What was allowed; an address among these may be private.
    named: Vec<String>,
    inner: R,
}

impl<R: Resolver> Resolver for PublicResolver<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &AgentConfig,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.inner.resolve(uri, config, timeout)?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let named_by_address = host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost");
        let may_be_private = named_by_address && is_named(&self.named, uri.host().unwrap_or_default(), port_of(uri));
        let refused = found.iter().any(|address: &SocketAddr| !may_be_private && !is_public(address.ip()));
        if refused {
            found.truncate(0);
            let message = "its host has an address inside a network, which is not fetched from";
            return Err(ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message)));
        }
        Ok(found)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| is_public_v6(v6), is_public_v4),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (b == 18 || b == 19);
    let protocols = (a, b, c) == (192, 0, 0);
    let special =
        address.is_private() || address.is_loopback() || address.is_link_local() || address.is_documentation();
    !(special || shared || benchmark || protocols || a == 0 || a >= 224)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    let embeds_v4 = matches!(first, 0x64 | 0x2002) || address.segments()[..2] == [0x2001, 0];
    let documentation =
        address.segments()[..2] == [0x2001, 0xdb8] || (first == 0x3fff && address.segments()[1] < 0x1000);
    // Only 2000::/3 is handed out for use by everybody.
    first & 0xe000 == 0x2000 && !embeds_v4 && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::media::{Awaited, MediaReader};

    #[test]
    fn addresses_inside_networks_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "3fff:fff::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "3fff:1000::1", "::ffff:8.8.8.8"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_host_must_be_named_with_its_port() {
        let fetcher = |allowed: &str| Fetcher::new(&[allowed.into()], Duration::from_secs(5));
        let refused = fetcher("example.org").fetch("http://example.com/a.png", 100, "u").unwrap_err();
        assert_eq!(refused.code, "remote_url_not_allowed");
        let port = fetcher("127.0.0.1:9").fetch("http://127.0.0.1:10/a.png", 100, "u").unwrap_err();
        assert_eq!(port.code, "remote_url_not_allowed");
    }

    /// Gives every name one address.
    #[derive(Debug)]
    struct Says(&'static str);

    impl Resolver for Says {
        fn resolve(&self, _: &Uri, _: &AgentConfig, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let mut found = self.empty();
            found.push(self.0.parse().unwrap());
            Ok(found)
        }
    }

    #[test]
    fn a_named_host_with_an_inner_address_is_refused_and_one_with_a_public_address_is_not() {
        let resolve = |address: &'static str| {
            let resolver = PublicResolver { named: vec!["files.example".into()], inner: Says(address) };
            let uri = Uri::from_static("http://files.example/a.png");
            resolver.resolve(&uri, &AgentConfig::default(), NextTimeout::default()).map(|found| found.len())
        };
        assert_eq!(resolve("93.184.216.34:80").unwrap(), 1);
        for inner in
            ["127.0.0.1:80", "10.0.0.1:80", "169.254.169.254:80", "[::1]:80", "[::ffff:10.0.0.1]:80", "[fd00::1]:80"]
        {
            let error = resolve(inner).unwrap_err();
            assert_eq!(refused("u", &error).code, "remote_url_not_allowed", "{inner}");
        }
    }

    /// A host that gives these answers, one a connection.
    fn host<const N: usize>(answers: [&'static str; N]) -> String {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = server.accept().unwrap();
                let mut head = [0; 1024];
                let _ = socket.read(&mut head).unwrap();
                std::io::Write::write_all(&mut socket, answer.as_bytes()).unwrap();
            }
        });
        address
    }

    const FILE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";

    #[test]
    fn what_was_named_is_fetched_and_a_redirect_elsewhere_is_not_followed() {
        let elsewhere =
            "HTTP/1.1 302 F\r\nconnection: close\r\nlocation: http://127.0.0.2/x\r\ncontent-length: 0\r\n\r\n";
        let address = host([FILE, elsewhere]);
        let fetcher = Fetcher::new(std::slice::from_ref(&address), Duration::from_secs(5));
        let url = format!("http://{address}/a");
        assert_eq!(fetcher.fetch(&url, 3, "u").unwrap(), b"abc");
        let redirected = fetcher.fetch(&url, 3, "u").unwrap_err();
        assert_eq!(redirected.code, "remote_url_not_allowed", "{}", redirected.message);
    }

    #[test]
    fn all_files_of_a_request_are_no_larger_than_its_body_might_be() {
        let address = host([FILE, FILE, FILE]);
        let reader = MediaReader::new(&Config::default().allowed_media_hosts([&address]).max_body(5));
        let url = format!("http://{address}/a");
        let media = reader.of_request();
        media.at_url(&url, "first").unwrap();
        let error = media.at_url(&url, "second").unwrap_err();
        assert!(error.message.contains("2 bytes"), "{}", error.message);
        reader.of_request().at_url(&url, "another request's").unwrap();
    }

    #[test]
    fn the_usual_port_is_named_by_its_number_too() {
        let named =
            |url: &'static str| is_named(&["127.0.0.1:80".into()], "127.0.0.1", port_of(&Uri::from_static(url)));
        assert!(named("http://127.0.0.1/a.png") && named("http://127.0.0.1:80/a.png"));
        assert!(!named("http://127.0.0.1:81/a.png") && !named("https://127.0.0.1/a.png"));
    }

    #[test]
    fn nothing_is_fetched_for_a_request_whose_client_has_gone() {
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = host.local_addr().unwrap().to_string();
        let reader = MediaReader::new(&Config::default().allowed_media_hosts([&address]));
        let awaited = Awaited::default();
        let media = reader.of_request().until(awaited.over());
        let url = format!("http://{address}/a");
        // The host begins to answer, and the client goes before it is done.
        let begins = std::thread::spawn(move || {
            let mut socket = host.accept().unwrap().0;
            let _ = socket.read(&mut [0; 1024]);
            std::io::Write::write_all(&mut socket, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nred").unwrap();
            drop(awaited);
            std::io::Write::write_all(&mut socket, b"red").unwrap();
            (host, socket)
        });
        let error = media.at_url(&url, "u").unwrap_err();
        assert!(error.message.contains("nobody waits"), "{}", error.message);
        assert!(media.at_url(&url, "u").unwrap_err().message.contains("nobody waits"));
        drop(begins.join());
    }
}
