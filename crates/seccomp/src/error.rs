//! What can be wrong with a profile.

/// Why a profile cannot be read or made into a filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no tables for the machine that this program runs on.
    #[error("no system call tables for this machine's architecture")]
    UnsupportedMachine,
    /// An action that needs a listening agent.
    #[error("action SCMP_ACT_NOTIFY on {place} needs a seccomp agent, which is not supported")]
    NotifyUnsupported {
        /// The call, or `the default`.
        place: String,
    },
    /// An errno or trace value that the kernel cannot return.
    #[error("return value {value} on {place} is above {limit}")]
    ReturnValue {
        /// The call, or `the default`.
        place: String,
        /// What the profile has.
        value: u32,
        /// The highest that is possible.
        limit: u32,
    },
    /// A condition on an argument that does not exist.
    #[error("condition on argument {index} of {call}: calls have arguments 0 to 5")]
    ArgumentIndex {
        /// The call.
        call: String,
        /// What the profile has.
        index: usize,
    },
    /// More instructions than the kernel takes.
    #[error("the filter has more than {limit} instructions")]
    TooLong {
        /// The kernel's limit.
        limit: usize,
    },
    /// More rules, names or conditions than a profile may have.
    #[error("the profile has {count} {what}, more than {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A profile's file that is too large.
    #[error("the profile has {length} bytes, more than {limit}")]
    TooLarge {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A profile that is not in the form of OCI or Docker.
    #[error("the profile is not valid")]
    Syntax {
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A kernel version that a profile's rule names and that is not one.
    #[error("\"{text}\" is not a kernel version of the form major.minor")]
    KernelVersion {
        /// The text, cut to a length that can be shown.
        text: String,
    },
    /// A profile that names architectures in both of the two ways.
    #[error("the profile has both architectures and archMap")]
    TwoArchitectureLists,
    /// A rule that names calls in both of the two ways, or in none.
    #[error("rule {index} needs either name or names")]
    RuleNames {
        /// The rule's place in the profile, from 0.
        index: usize,
    },
}
