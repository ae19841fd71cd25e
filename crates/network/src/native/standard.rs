//! The default network: a chain like any other, with a configuration of its own.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use serde_json::{Value, json};

use crate::{BuiltinOptions, Subnet};

/// The version of the specification that the chain is written in.
const VERSION: &str = "1.0.0";

/// Returns the configuration list of the default network.
pub(crate) fn conflist(options: &BuiltinOptions, subnets: &[Subnet], data_dir: &Path) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    let unspecified = |subnet: &Subnet| -> IpAddr {
        if subnet.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    };
    let routes: Vec<Value> = subnets
        .iter()
        .map(|subnet| json!({ "dst": format!("{}/0", unspecified(subnet)) }))
        .collect();
    json!({
        "cniVersion": VERSION,
        "name": options.name,
        "plugins": [
            {
                "type": "bridge",
                "bridge": options.bridge,
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": data_dir,
                    "ranges": ranges,
                    "routes": routes,
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        ],
    })
}
