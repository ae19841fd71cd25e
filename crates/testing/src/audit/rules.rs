//! Packet rules, nftables' and what iptables makes of them.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::Result;

use crate::program;

/// Chains that plugins make once and keep, by their own design. Without rules they
/// do nothing, so only rules are facts, and the jumps to these are none.
const KEPT_CHAINS: [&str; 7] = [
    "CNI-HOSTPORT-DNAT",
    "CNI-HOSTPORT-MASQ",
    "CNI-HOSTPORT-SETMARK",
    "CNI-FORWARD",
    "CNI-ADMIN",
    "CNI-ISOLATION",
    "CNI-DN",
];

/// One fact a rule, with its table and chain.
pub(super) fn rules(facts: &mut BTreeSet<String>) -> Result<()> {
    let listed = program::output(Command::new("nft").args(["--stateless", "list", "ruleset"]))?;
    facts.extend(flatten(&listed));
    Ok(())
}

fn flatten(ruleset: &str) -> Vec<String> {
    let (mut table, mut chain, mut flat) = ("", "", Vec::new());
    for line in ruleset.lines().map(str::trim) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["table", _, _, "{"] => {
                table = line.trim_start_matches("table ").trim_end_matches(" {");
                chain = "";
            }
            ["chain" | "set" | "map", name, "{"] => chain = name,
            ["" | "}"] | ["type" | "policy" | "flags" | "#", ..] => {}
            _ if is_kept(chain, line) => {}
            _ => flat.push(format!("rule {table} {chain} {line}")),
        }
    }
    flat
}

fn is_kept(chain: &str, rule: &str) -> bool {
    let setup = KEPT_CHAINS[..3].contains(&chain) && !rule.contains("CNI-DN-");
    setup || KEPT_CHAINS.iter().any(|kept| rule.ends_with(&format!("jump {kept}")))
}

#[cfg(test)]
mod tests {
    use super::flatten;

    #[test]
    fn rules_are_flattened_and_kept_chains_left_out() {
        let ruleset = "table ip nat {\n\
            \tchain POSTROUTING {\n\
            \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
            \t\tip saddr 10.1.0.5 counter jump CNI-0123\n\
            \t\tfib daddr type local counter jump CNI-HOSTPORT-DNAT\n\
            \t}\n\
            \tchain CNI-HOSTPORT-SETMARK {\n\t\tmeta mark set mark or 0x2000\n\t}\n}\n\
            table inet corten0 {\n\tchain nat {\n\t\tmasquerade\n\t}\n}\n";
        assert_eq!(
            flatten(ruleset),
            [
                "rule ip nat POSTROUTING ip saddr 10.1.0.5 counter jump CNI-0123",
                "rule inet corten0 nat masquerade"
            ]
        );
    }
}
