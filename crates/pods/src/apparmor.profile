# What containers run under unless they ask for another profile: no mounts, nothing
# written to the kernel's own files, nobody else's processes traced or signalled.
profile corten-default flags=(attach_disconnected, mediate_deleted) {
  file,
  network,
  # The kernel's cryptography, whose sockets a filter of calls does not see in 32-bit programs.
  deny network alg,
  capability,
  umount,
  unix,

  # Whoever may signal a container is judged by the sender's own profile.
  signal receive,
  signal send peer=corten-default,
  ptrace (trace, read, tracedby, readby) peer=corten-default,

  deny mount,
  deny remount,
  deny pivot_root,

  # /proc, but for what belongs to processes and the limits of System V's IPC.
  deny /proc/[^0-9]* wkl,
  deny /proc/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** wkl,
  deny /proc/sys/[^kn]** wkl,
  deny /proc/sys/kernel/[^ms]** wkl,
  deny /proc/sys/kernel/m[^s]** wkl,
  deny /proc/sys/kernel/s[^eh]** wkl,
  deny /proc/sys/kernel/se[^m]** wkl,
  deny /proc/{kcore,keys,kmem,mem,sysrq-trigger,timer_list} rwklx,

  # /sys, but for cgroups.
  deny /sys/[^f]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}
