//! Figures to the wire's messages.

use cri_proto::v1;
use network::InterfaceUsage;
use stats::{ContainerFigures, Cpu, Interfaces, Memory, PodFigures, Processes, WritableLayer};

use super::status::{container_metadata, metadata};

fn number(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// A container's figures. `mountpoint` is where the file system of the writable layers is.
pub(crate) fn container_stats(figures: &ContainerFigures, mountpoint: &str) -> v1::ContainerStats {
    let ContainerFigures { record, cpu, memory, writable_layer } = figures;
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(container_metadata(&record.config)),
            labels: record.config.labels.clone().into_iter().collect(),
            annotations: record.config.annotations.clone().into_iter().collect(),
        }),
        cpu: cpu.map(cpu_usage),
        memory: memory.as_ref().map(memory_usage),
        writable_layer: writable_layer.map(|layer| filesystem_usage(layer, mountpoint)),
        swap: memory.as_ref().and_then(swap_usage),
        io: None,
    }
}

/// A pod's figures.
pub(crate) fn pod_stats(figures: &PodFigures, mountpoint: &str) -> v1::PodSandboxStats {
    let PodFigures { record, cpu, memory, processes, network, containers } = figures;
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: record.id.to_string(),
            metadata: Some(metadata(&record.config.metadata)),
            labels: record.config.labels.clone().into_iter().collect(),
            annotations: record.config.annotations.clone().into_iter().collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: cpu.map(cpu_usage),
            memory: memory.as_ref().map(memory_usage),
            network: network.as_ref().map(network_usage),
            process: processes.map(process_usage),
            containers: containers.iter().map(|c| container_stats(c, mountpoint)).collect(),
            io: None,
        }),
        windows: None,
    }
}

fn cpu_usage(Cpu { at_ns, usage_ns, nano_cores }: Cpu) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: at_ns,
        usage_core_nano_seconds: number(usage_ns),
        usage_nano_cores: nano_cores.and_then(number),
        psi: None,
    }
}

fn memory_usage(Memory { at_ns, stats }: &Memory) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: *at_ns,
        working_set_bytes: number(stats.working_set),
        available_bytes: stats.limit.and_then(|l| number(l.saturating_sub(stats.working_set))),
        usage_bytes: number(stats.usage),
        rss_bytes: number(stats.rss),
        page_faults: number(stats.page_faults),
        major_page_faults: number(stats.major_page_faults),
        psi: None,
    }
}

/// Nothing where the kernel does not count swap.
fn swap_usage(Memory { at_ns, stats }: &Memory) -> Option<v1::SwapUsage> {
    let used = stats.swap_usage?;
    Some(v1::SwapUsage {
        timestamp: *at_ns,
        swap_available_bytes: stats.swap_limit.and_then(|l| number(l.saturating_sub(used))),
        swap_usage_bytes: number(used),
    })
}

fn filesystem_usage(layer: WritableLayer, mountpoint: &str) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: layer.at_ns,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
        used_bytes: number(layer.bytes),
        inodes_used: number(layer.inodes),
    }
}

fn process_usage(Processes { at_ns, count }: Processes) -> v1::ProcessUsage {
    v1::ProcessUsage { timestamp: at_ns, process_count: number(count) }
}

fn network_usage(Interfaces { at_ns, default, others }: &Interfaces) -> v1::NetworkUsage {
    v1::NetworkUsage {
        timestamp: *at_ns,
        default_interface: default.as_ref().map(interface_usage),
        interfaces: others.iter().map(interface_usage).collect(),
    }
}

fn interface_usage(usage: &InterfaceUsage) -> v1::NetworkInterfaceUsage {
    let InterfaceUsage { name, rx_bytes, rx_errors, tx_bytes, tx_errors } = usage;
    v1::NetworkInterfaceUsage {
        name: name.clone(),
        rx_bytes: number(*rx_bytes),
        rx_errors: number(*rx_errors),
        tx_bytes: number(*tx_bytes),
        tx_errors: number(*tx_errors),
    }
}
