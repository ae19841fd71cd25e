//! The texts of the files that a sandbox gives its containers.

use std::{fmt::Write as _, net::IpAddr};

use types::DnsConfig;

use crate::{
    SpecError,
    text::{check_count, check_line, check_word, shown},
};

/// How many servers, search domains and options a resolver's settings may have. Resolvers
/// use 3 servers, and the kubelet gives up to 32 domains.
pub const MAX_DNS_ENTRIES: usize = 64;
/// The longest entry: what a domain name can have, with room for an option's value.
pub const MAX_DNS_ENTRY_BYTES: usize = 1024;
/// The longest host name (`__NEW_UTS_LEN` of the kernel).
pub const MAX_HOSTNAME_BYTES: usize = 64;

/// Makes a `resolv.conf`, or returns `None` where the node's is to be used: nothing was
/// asked for.
///
/// # Errors
///
/// A server is no address, or an entry would be read as more than one.
pub fn resolv_conf(dns: Option<&DnsConfig>) -> Result<Option<String>, SpecError> {
    let Some(DnsConfig { servers, searches, options }) = dns else { return Ok(None) };
    for (what, entries) in
        [("name servers", servers), ("search domains", searches), ("resolver options", options)]
    {
        check_count(what, entries.len(), MAX_DNS_ENTRIES)?;
    }
    servers.iter().try_for_each(|server| check_server(server))?;
    searches.iter().try_for_each(|domain| check_entry("search domain", domain))?;
    options.iter().try_for_each(|option| check_entry("resolver option", option))?;
    let mut text = String::new();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    for server in servers {
        text += &format!("nameserver {server}\n");
    }
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// Makes a pod's `/etc/hosts`: the names of the loopback addresses, and the pod's own
/// name on its addresses, the short one too where it has a domain. The host name must have passed [`check_hostname`].
pub fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    if !hostname.is_empty() {
        let short = hostname.split_once('.').map(|(short, _)| format!(" {short}"));
        let short = short.filter(|short| short.len() > 1).unwrap_or_default();
        for ip in ips {
            let _infallible = writeln!(text, "{ip}\t{hostname}{short}");
        }
    }
    text
}

/// Makes an `/etc/hostname`.
///
/// # Errors
///
/// The name is not one.
pub fn hostname(hostname: &str) -> Result<String, SpecError> {
    check_hostname(hostname)?;
    Ok(format!("{hostname}\n"))
}

/// Checks that a host name is one that the kernel takes and that no file of lines is
/// broken by. An empty one is no name and is good.
///
/// # Errors
///
/// The name is too long or has other characters than letters, digits, `.`, `-` and `_`.
pub fn check_hostname(hostname: &str) -> Result<(), SpecError> {
    check_count("length of the host name", hostname.len(), MAX_HOSTNAME_BYTES)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if hostname.starts_with('-') || !hostname.chars().all(good) {
        return Err(SpecError::Characters { what: "host name", text: shown(hostname) });
    }
    Ok(())
}

/// An address; one of IPv6 may name its interface after a `%`.
fn check_server(server: &str) -> Result<(), SpecError> {
    check_line("name server", server)?;
    let (address, zone) = server.split_once('%').unwrap_or((server, "eth0"));
    let good_zone = (1..=15).contains(&zone.len())
        && zone.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let address: Option<IpAddr> = address.parse().ok();
    let zoned = server.contains('%');
    if !good_zone || address.is_none_or(|address| zoned && address.is_ipv4()) {
        return Err(SpecError::NameServer { text: shown(server) });
    }
    Ok(())
}

fn check_entry(what: &'static str, entry: &str) -> Result<(), SpecError> {
    if entry.is_empty() {
        return Err(SpecError::Empty { what });
    }
    check_count(what, entry.len(), MAX_DNS_ENTRY_BYTES)?;
    check_word(what, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> DnsConfig {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        DnsConfig { servers: owned(servers), searches: owned(searches), options: owned(options) }
    }

    #[test]
    fn a_resolver_gets_what_was_asked_for() {
        let full = dns(&["10.0.0.10", "fe80::1%eth0"], &["svc.local", "local"], &["ndots:5"]);
        let wanted = "search svc.local local\nnameserver 10.0.0.10\nnameserver fe80::1%eth0\noptions ndots:5\n";
        assert_eq!(resolv_conf(Some(&full)).unwrap().as_deref(), Some(wanted));
        assert_eq!(resolv_conf(Some(&DnsConfig::default())).unwrap(), None);
        assert_eq!(resolv_conf(None).unwrap(), None);
    }

    #[test]
    fn entries_that_would_be_two_are_refused() {
        for bad in [
            dns(&["example.org"], &[], &[]),
            dns(&["10.0.0.1\nnameserver 6.6.6.6"], &[], &[]),
            dns(&["10.0.0.1%eth0"], &[], &[]),
            dns(&["fe80::1%"], &[], &[]),
            dns(&["fe80::1%a b"], &[], &[]),
            dns(&[""], &[], &[]),
            dns(&[], &["a b"], &[]),
            dns(&[], &["a\nnameserver 6.6.6.6"], &[]),
            dns(&[], &[""], &[]),
            dns(&[], &["a\r"], &[]),
            dns(&[], &[], &["ndots:5\nnameserver 6.6.6.6"]),
            dns(&[], &[&"x".repeat(MAX_DNS_ENTRY_BYTES + 1)], &[]),
            dns(&[], &vec!["x"; MAX_DNS_ENTRIES + 1], &[]),
        ] {
            assert!(resolv_conf(Some(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_name_the_pod_on_each_address() {
        let text = hosts("web", &["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.1.2.3\tweb\nfd00::3\tweb\n"));
        let text = hosts("web.svc.local", &["10.1.2.3".parse().unwrap()]);
        assert!(text.ends_with("10.1.2.3\tweb.svc.local web\n"), "{text}");
        assert!(!hosts("", &["10.1.2.3".parse().unwrap()]).contains("10.1.2.3"));
    }

    #[test]
    fn host_names() {
        assert_eq!(hostname("web-0.local").unwrap(), "web-0.local\n");
        for bad in ["a\nb", "a b", "-a", "a/b", "ä", "a\0", &"x".repeat(65)] {
            assert!(check_hostname(bad).is_err(), "{bad:?}");
        }
    }
}
