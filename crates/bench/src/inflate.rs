//! Which library inflates a layer fastest.
//!
//! Only libraries that build without more than a C compiler are compared: zlib-ng's and
//! ISA-L's crates want cmake and nasm. libdeflate is shown for what it is: it wants the
//! whole input and the output's length, which a stream from a registry has not.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::material;

/// The size of the layer, unpacked.
const LAYER: u64 = 128 << 20;
/// How often each library is asked; the fastest counts, as the others are noise.
const ROUNDS: usize = 5;
/// The bytes that are asked for at a time.
const CHUNK: usize = 256 << 10;

/// Runs and prints a line a library.
pub fn run() -> Result<()> {
    let layer = material::layers(1, LAYER)?.pop().context("no layer")?;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&layer)?;
    let gzip = encoder.finish()?;
    let zstd = zstd::stream::encode_all(layer.as_slice(), 3)?;
    println!("layer: {} bytes, gzip {}, zstd {}", layer.len(), gzip.len(), zstd.len());
    println!("{:<28} {:>10} {:>8}", "library", "MiB/s out", "stream");
    show("flate2 (zlib-rs)", true, layer.len(), || {
        drain(flate2::bufread::MultiGzDecoder::new(gzip.as_slice()))
    })?;
    show("miniz_oxide", true, layer.len(), || miniz(&gzip))?;
    show("libdeflater (libdeflate, C)", false, layer.len(), || {
        let mut out = vec![0; layer.len()];
        Ok(libdeflater::Decompressor::new().gzip_decompress(&gzip, &mut out)?)
    })?;
    show("zstd (C)", true, layer.len(), || {
        drain(zstd::stream::read::Decoder::with_buffer(zstd.as_slice())?)
    })
}

fn show(
    name: &str,
    streams: bool,
    size: usize,
    mut work: impl FnMut() -> Result<usize>,
) -> Result<()> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        ensure!(work()? == size, "{name} gives another length");
        best = best.min(begun.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "it is for people")]
    let rate = size as f64 / f64::from(1 << 20) / best.as_secs_f64();
    println!("{name:<28} {rate:>10.0} {:>8}", if streams { "yes" } else { "no" });
    Ok(())
}

fn drain(mut reader: impl std::io::Read) -> Result<usize> {
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(size),
            count => size += count,
        }
    }
}

/// The pure one by itself: flate2 has one library at a time.
fn miniz(gzip: &[u8]) -> Result<usize> {
    use miniz_oxide::inflate::stream::{InflateState, inflate};
    use miniz_oxide::{DataFormat, MZFlush, MZStatus};
    // What flate2 wrote has the shortest header.
    let mut input = gzip.get(10..).context("too short")?;
    let mut state = InflateState::new_boxed(DataFormat::Raw);
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let result = inflate(&mut state, input, &mut buffer, MZFlush::None);
        size += result.bytes_written;
        input = &input[result.bytes_consumed..];
        match result.status {
            Ok(MZStatus::StreamEnd) => return Ok(size),
            Ok(_) => {}
            Err(error) => anyhow::bail!("miniz_oxide: {error:?}"),
        }
    }
}
