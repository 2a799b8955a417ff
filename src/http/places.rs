//! Where an address is, as a file of the operator's says: read once, looked up in memory, and nobody is asked.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{Reader, WithinOptions};
use serde::Deserialize;

use crate::login::may_stand;
use crate::scene::Place;

/// The longest name of a country or a city that is shown.
const NAME_CHARS: usize = 40;

/// How many networks of the file are looked at for one whose place it names, until it is taken for something else.
const LOOKED_AT: usize = 10_000;

/// A MaxMind DB of cities or countries, as MaxMind, DB-IP and others give out.
pub struct Places(Reader<Vec<u8>>);

/// What of a record is looked at.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    country: Named<'a>,
    #[serde(borrow, default)]
    city: Named<'a>,
}

#[derive(Default, Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    names: Names<'a>,
    iso_code: Option<&'a str>,
}

#[derive(Default, Deserialize)]
struct Names<'a> {
    en: Option<&'a str>,
    #[serde(rename = "zh-CN")]
    zh: Option<&'a str>,
}

impl Places {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, in words: also when it is of something else than places.
    pub fn open(path: &Path) -> Result<Self, String> {
        // What never ends is not read.
        if !std::fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
            return Err("it is no file".to_owned());
        }
        let reader = Reader::open_readfile(path).map_err(|error| error.to_string())?;
        let networks = reader.networks(WithinOptions::default());
        let mut networks = networks.map_err(|error| error.to_string())?.take(LOOKED_AT);
        let names_any = networks.any(|found| {
            let record = found.and_then(|found| found.decode::<Record<'_>>());
            record.ok().flatten().and_then(|record| record.place()).is_some()
        });
        if names_any {
            Ok(Self(reader))
        } else {
            Err("it names no country and no city".to_owned())
        }
    }

    /// Where this address is; `None` of one that is nobody's own, or that the file does not know.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        if is_anywhere(address) {
            return None;
        }
        // One that the file can't hold, of IPv6, is one that it does not know.
        let found = self.0.lookup(address).ok()?;
        found.decode::<Record<'_>>().ok()??.place()
    }
}

impl Record<'_> {
    fn place(&self) -> Option<Place> {
        let (country, city) = (self.country.in_both(), self.city.in_both());
        let (country_zh, country_en) = country.unwrap_or_default();
        let (city_zh, city_en) = city.unwrap_or_default();
        let place = Place {
            zh: joined(country_zh, " ", city_zh),
            en: joined(city_en, ", ", country_en),
        };
        (!place.zh.is_empty()).then_some(place)
    }
}

impl Named<'_> {
    /// In Chinese and in English, each for want of it in the other, or in the two letters that everybody reads.
    fn in_both(&self) -> Option<(String, String)> {
        let clean = |name: Option<&str>| name.map(clean).filter(|name| !name.is_empty());
        let (zh, en) = (clean(self.names.zh), clean(self.names.en));
        let any = zh.clone().or_else(|| en.clone()).or_else(|| clean(self.iso_code))?;
        Some((zh.unwrap_or_else(|| any.clone()), en.unwrap_or(any)))
    }
}

/// The file is the operator's, and yet nothing in it writes on somebody's confirm screen.
fn clean(name: &str) -> String {
    let kept: String = name.chars().filter(|c| may_stand(*c)).take(NAME_CHARS).collect();
    kept.trim().to_owned()
}

/// A city that is its country is named once.
fn joined(first: String, between: &str, second: String) -> String {
    if first.is_empty() || first == second {
        second
    } else if second.is_empty() {
        first
    } else {
        first + between + &second
    }
}

/// Whether such an address may be in use wherever somebody likes.
fn is_anywhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let is_of_carriers = a == 100 && (64..128).contains(&b);
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || is_of_carriers
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Places").field(&self.0.metadata().database_type).finish()
    }
}
