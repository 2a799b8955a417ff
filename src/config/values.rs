//! How one value is read, and what it must be instead.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::http::{ForwardedHeader, PublicUrl};
use crate::login::entry::{EntryScenes, NumberMatching, Verdict};
use crate::wechat::EnvVersion;
use crate::wechat::access_token::TokenMode;
use crate::wechat::client::Rgb;

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "it must be an IP address and a port, such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

pub(super) fn origin(text: &str) -> Result<PublicUrl, String> {
    PublicUrl::parse(text).map_err(|problem| format!("{problem}; such as https://login.example"))
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let single = |ip: std::net::IpAddr| IpNet::from(ip);
    text.trim()
        .parse()
        .or_else(|_| text.trim().parse().map(single))
        .ok()
        // Who trusts everybody, be it by halves, takes the caller's own word for where it comes from.
        .filter(|network: &IpNet| match network {
            IpNet::V4(v4) => v4.prefix_len() >= 8,
            IpNet::V6(v6) => v6.prefix_len() >= 7,
        })
        .ok_or_else(|| "it must be networks such as 10.0.0.0/8,fd00::/8, and not everybody's".to_owned())
}

/// Where a site takes people back.
pub(super) fn redirect_uri(text: &str) -> Result<(), &'static str> {
    // Nobody is sent to what it stands for elsewhere, and people would be shown it as part of the site's name.
    if text.contains('*') {
        return Err("has a *, and redirect_uris are matched exactly, character by character: list each address");
    }
    web_address(text)
}

/// The same as a setting by itself.
pub(super) fn redirect_uri_setting(text: &str) -> Result<String, String> {
    let problem = |problem| format!("it {problem}; such as https://blog.example/callback");
    redirect_uri(text).map(|()| text.to_owned()).map_err(problem)
}

/// An address of a site's that shows whose it is.
pub(super) fn web_address(text: &str) -> Result<(), &'static str> {
    const NONE: &str = "is no address";
    let url = url::Url::parse(text).map_err(|_| NONE)?;
    let is_loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(v4)) => v4.is_loopback(),
        Some(url::Host::Ipv6(v6)) => v6.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        _ => return Err("must be https, or http on this machine"),
    }
    // Browsers would read over a line break or a missing slash. Sites must repeat the very text, and people see it.
    let is_written_out = text.starts_with(&format!("{}://", url.scheme()));
    if !is_written_out || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(NONE);
    }
    if !text.is_ascii() {
        return Err("must be ASCII: other letters percent-encoded, as browsers send them");
    }
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user and no fragment (#)");
    }
    Ok(())
}

/// The longest prefix of a link, in bytes.
const LINK_PREFIX_LEN: usize = 200;

/// What stands before the scene in an ordinary QR code: WeChat's rule must end so as well, or it would open other addresses too.
pub(super) fn link_prefix(text: &str) -> Result<(), &'static str> {
    // The Mini Program and the page behind it know a link by its /s/.
    if !(text.starts_with("https://") && text.ends_with("/s/")) || text.contains('?') {
        return Err("must be https and end with /s/");
    }
    if text.len() > LINK_PREFIX_LEN {
        return Err("is longer than 200 characters, which makes a code that is hard to scan");
    }
    web_address(text)
}

/// The host in an address.
pub(super) fn host_of(address: &str) -> Option<String> {
    url::Url::parse(address).ok()?.host_str().map(ToOwned::to_owned)
}

/// Where people's pictures may be: a host, or `*.` and a domain that somebody can own.
pub(super) fn avatar_host(text: &str) -> Result<(), &'static str> {
    let host = text.strip_prefix("*.").unwrap_or(text);
    let is_host = url::Host::parse(host).is_ok_and(|parsed| parsed.to_string() == host);
    let is_wide = text.starts_with("*.") && !host.contains('.');
    if is_host && !is_wide {
        Ok(())
    } else {
        Err("must be a host such as img.example, or *. and a domain")
    }
}

pub(super) fn edition(text: &str) -> Result<EnvVersion, String> {
    EnvVersion::of_word(text).ok_or_else(|| "it must be release, trial or develop".to_owned())
}

pub(super) fn number_matching(text: &str) -> Result<NumberMatching, String> {
    match text {
        "off" => Ok(NumberMatching::Off),
        "on" => Ok(NumberMatching::On),
        "on_warning" => Ok(NumberMatching::OnWarning),
        _ => Err("it must be off, on or on_warning".to_owned()),
    }
}

/// Changes of the default, each `number=verdict`.
pub(super) fn entry_scenes(text: &str) -> Result<EntryScenes, String> {
    let mut table = BTreeMap::new();
    for change in text.split(',') {
        let (name, verdict) = change.split_once('=').unwrap_or((change, ""));
        let (name, verdict) = (name.trim(), verdict.trim());
        let verdict = match verdict {
            "allow" => Verdict::Allow,
            "warn" => Verdict::Warn,
            "refuse" => Verdict::Refuse,
            other => {
                let given = if other.is_empty() {
                    String::new()
                } else {
                    format!(", and not {other:?}")
                };
                return Err(format!(
                    "{name:?} must be allow, warn or refuse{given}; such as 1048=refuse,other=warn"
                ));
            }
        };
        if table.insert(name.to_owned(), verdict).is_some() {
            return Err(format!("{name:?} is there twice; such as 1048=refuse,other=warn"));
        }
    }
    EntryScenes::default().with(&table).map_err(|name| {
        format!("{name:?} is neither one of WeChat's numbers nor other nor typed; such as 1048=refuse,other=warn")
    })
}

pub(super) fn forwarded_header(text: &str) -> Result<ForwardedHeader, String> {
    match text.to_ascii_lowercase().as_str() {
        "x-forwarded-for" => Ok(ForwardedHeader::XForwardedFor),
        "forwarded" => Ok(ForwardedHeader::Forwarded),
        _ => Err("it must be x-forwarded-for or forwarded".to_owned()),
    }
}

pub(super) fn token_mode(text: &str) -> Result<TokenMode, String> {
    match text {
        "stable_token" => Ok(TokenMode::Stable),
        "token" => Ok(TokenMode::Classic),
        _ => Err("it must be stable_token or token".to_owned()),
    }
}

/// Where a collector takes traces.
pub(super) fn collector(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let no_collector = || {
        "it must be http or https and a host, without user, query and fragment, such as http://127.0.0.1:4318; what proves who we \
         are is for SCANLOGIN_OTLP_HEADERS"
            .to_owned()
    };
    let mut url = url.ok_or_else(no_collector)?;
    url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
    Ok(url)
}

/// Headers as OpenTelemetry writes them in one line: `name=value`, comma separated, the values percent-encoded. Says nothing of a value.
pub(super) fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (place, header) in text.split(',').enumerate() {
        let parsed = header.split_once('=').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            Some((name, HeaderValue::from_bytes(&value).ok()?))
        });
        let Some((name, mut value)) = parsed else {
            let place = place + 1;
            return Err(format!(
                "header {place} is not of the form name=value, such as api-key=0123456789abcdef"
            ));
        };
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// A part of all.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "it must be a number from 0 to 1, such as 0.1".to_owned())
}

pub(super) fn colour(text: &str) -> Result<Rgb, String> {
    // To a parser of numbers a sign would be one, too.
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let part = |at: usize| text.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    match (text.len(), part(0), part(2), part(4)) {
        (6, Some(r), Some(g), Some(b)) if is_hex => Ok(Rgb { r, g, b }),
        _ => Err("it must be six hex digits, such as 07c160".to_owned()),
    }
}

/// A whole number within bounds, of which `such_as` is one.
pub(super) fn whole<T>(
    least: T,
    most: T,
    such_as: T,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| {
        text.parse()
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("it must be a whole number from {least} to {most}, such as {such_as}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_uri_is_written_as_it_is_read() {
        for uri in [
            "https://blog.example/callback",
            "http://localhost:3000/?a=b",
            "http://[::1]/",
        ] {
            assert_eq!(redirect_uri(uri), Ok(()), "{uri}");
        }
        for wrong in [
            "https:/blog.example",
            "https:blog.example",
            "ht\rtps://blog.example",
            "https://blog.example/a\nb",
            " https://blog.example",
            "http://blog.example",
            "https://a@blog.example",
            "https://blog.example/#",
            "blog.example",
            "https://*.blog.example/callback",
            "https://blog.example/*",
        ] {
            redirect_uri(wrong).unwrap_err();
        }
    }

    #[test]
    fn traces_go_below_the_address_of_a_collector_that_holds_no_secret() {
        for (given, taken) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otlp.example/", "https://otlp.example/v1/traces"),
            ("https://otlp.example/otlp/", "https://otlp.example/otlp/v1/traces"),
        ] {
            assert_eq!(collector(given).unwrap().as_str(), taken);
        }
        for wrong in [
            "",
            "127.0.0.1:4318",
            "collector:4318",
            "grpc://collector:4317",
            "http://me@collector",
            "http://me:key@collector",
            "http://collector?key=1",
            "http://collector#1",
        ] {
            assert!(collector(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_stand_in_one_line_and_their_values_are_not_shown() {
        let read = headers("api-key = hidden,authorization=Basic%20aGlkZGVu").unwrap();
        assert_eq!(read["api-key"], "hidden");
        assert_eq!(read["authorization"], "Basic aGlkZGVu");
        assert!(!format!("{read:?}").contains("idden"), "{read:?}");
        for wrong in ["", "hidden", "a=b,hidden", "a b=hidden", "a=hidden%0A", "a=b,"] {
            let problem = headers(wrong).unwrap_err();
            assert!(!problem.contains("hidden"), "{problem}");
        }
    }

    #[test]
    fn a_ratio_is_from_nothing_to_all() {
        for text in ["0", "0.25", "1"] {
            assert_eq!(ratio(text).unwrap().to_string(), text);
        }
        for wrong in ["", "-0.1", "1.1", "NaN", "inf", "half"] {
            assert!(ratio(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_colour_is_six_hex_digits() {
        assert!(colour("07c160").is_ok() && colour("07C160").is_ok());
        for wrong in ["", "07c16", "07c1600", "+7+c+1", "#07c16", "07c16\u{e9}"] {
            assert!(colour(wrong).is_err(), "{wrong}");
        }
    }
}
