//! Addresses, before they are shown to strangers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// Each address that was hidden has one name for as long as the program runs.
static NAMES: Mutex<BTreeMap<IpAddr, usize>> = Mutex::new(BTreeMap::new());

/// The text with a name (`ip-1***`) for each address in it, as long as the address was, so that
/// columns stay. Ports and prefix lengths stay, and so do `0.0.0.0`, `::` and loopback addresses.
pub fn addresses(text: &str) -> String {
    let mut hidden = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(may_be_in_address) {
        let word = &rest[start..];
        let end = word.find(|c| !may_be_in_address(c)).unwrap_or(word.len());
        hidden.push_str(&rest[..start]);
        let within_word = hidden.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let word = &word[..end];
        hidden.push_str(&if within_word {
            word.to_string()
        } else {
            renamed(word)
        });
        rest = &rest[start + end..];
    }
    hidden.push_str(rest);
    hidden
}

const fn may_be_in_address(character: char) -> bool {
    character.is_ascii_hexdigit() || matches!(character, '.' | ':')
}

/// A run of such characters: an address, an address with its port, or neither.
fn renamed(word: &str) -> String {
    let bare = word.trim_end_matches(['.', ':']);
    let tail = &word[bare.len()..];
    if let Ok(address) = bare.parse::<IpAddr>() {
        return format!("{}{tail}", name(address, bare.len()));
    }
    if let Ok(SocketAddr::V4(address)) = bare.parse() {
        let length = address.ip().to_string().len();
        return format!(
            "{}:{}{tail}",
            name((*address.ip()).into(), length),
            address.port()
        );
    }
    // A port of five digits behind an IPv6 address without brackets: neither of both to a parser.
    if let Some((host, port)) = bare.rsplit_once(':')
        && let (Ok(IpAddr::V6(address)), Ok(_)) = (host.parse::<IpAddr>(), port.parse::<u16>())
    {
        return format!("{}:{port}{tail}", name(address.into(), host.len()));
    }
    word.to_string()
}

fn name(address: IpAddr, length: usize) -> String {
    if address.is_unspecified() || address.is_loopback() {
        return address.to_string();
    }
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let next = names.len() + 1;
    let number = *names.entry(address).or_insert(next);
    format!("{:*<length$}", format!("ip-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_and_their_company_stays() {
        let text =
            "10.96.0.10:80 => 10.244.1.3:8080, [fd00::9]:80 from 10.244.0.0/16 at 12:40. Then 10.96.0.10.";
        let hidden = addresses(text);
        assert_eq!(hidden.len(), text.len());
        for gone in ["10.96.0.10", "10.244.1.3", "fd00::9", "10.244.0.0"] {
            assert!(!hidden.contains(gone), "{hidden}");
        }
        for kept in [":80 =>", ":8080,", "]:80", "/16 at 12:40. Then ip-"] {
            assert!(hidden.contains(kept), "{hidden}");
        }
        assert_eq!(addresses(text), hidden);
        let bare = addresses("to 2001:db8:77::5:31080.");
        assert!(bare.contains(":31080.") && !bare.contains("db8"), "{bare}");
    }

    #[test]
    fn other_words_stay_as_they_are() {
        for text in [
            "0.0.0.0/0 127.0.0.1 ::1",
            "dead beef 0.33333333349 ..1996",
            "web-10.1 a:b",
            "",
        ] {
            assert_eq!(addresses(text), text);
        }
    }
}
