//! A web server from Debian's nginx-light.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::{Image, LayerBuilder};
use crate::program;

const PROGRAM: &str = "/usr/sbin/nginx";

/// What the server answers with.
pub const PAGE: &str = "served by nginx in a pod\n";

const CONFIGURATION: &str = "\
daemon off;
user www-data;
worker_processes 1;
error_log stderr;
pid /run/nginx.pid;
events { worker_connections 64; }
http {
    access_log /dev/stdout;
    server { listen 80; root /usr/share/nginx/html; }
}
";

/// The image: the server, the libraries that it is linked to, and a page.
/// It stands on the layers of `base`.
///
/// # Errors
/// If the package is not installed.
pub fn web_server(base: &Image) -> Result<Image> {
    let mut layer = LayerBuilder::new();
    layer.copy(Path::new(PROGRAM), "usr/sbin/nginx", 0o755)?;
    for library in libraries(PROGRAM)? {
        layer.copy(Path::new(&library), library.trim_start_matches('/'), 0o755)?;
    }
    for directory in ["run", "var/log/nginx", "var/lib/nginx"] {
        layer.directory(directory, 0o755)?;
    }
    layer.file("etc/nginx/nginx.conf", 0o644, CONFIGURATION.as_bytes())?;
    layer.file("usr/share/nginx/html/index.html", 0o644, PAGE.as_bytes())?;
    let image = base.with_layer(layer.finish()?).with("Cmd", json!([PROGRAM]));
    let image = image.with("ExposedPorts", json!({ "80/tcp": {} }));
    Ok(image.with("StopSignal", json!("SIGQUIT")))
}

/// The libraries of a program, its interpreter included.
fn libraries(program: &str) -> Result<BTreeSet<String>> {
    let listed = program::output(Command::new("ldd").arg(program))?;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(str::to_owned).collect())
}
