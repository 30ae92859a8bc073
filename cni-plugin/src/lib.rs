//! A chained CNI plugin (CNI spec 0.1.0 to 1.1.0). It returns the chain's result unchanged, and reports
//! the Pod to the node daemon, which enrolls it.
//!
//! `invocation` reads the environment, `stdin` the configuration, `conf` its keys (`remains` the keys
//! for DEL), `result` the addresses in `prevResult`; `verb` implements the verbs, `daemon` is the
//! client of the daemon, and `error` has the codes of the spec.
#![forbid(unsafe_code)]

mod conf;
mod daemon;
mod error;
#[cfg(fuzzing)]
pub mod fuzz;
mod invocation;
mod pending_del;
mod remains;
mod result;
mod spec;
mod stdin;
mod verb;
mod version;

use std::io;

pub use error::Error;
pub use invocation::Invocation;
use spec::SUPPORTED;
pub use stdin::read_stdin;
pub use verb::{Output, run};

/// The text that the plugin prints without a runtime.
#[must_use]
pub fn describe() -> String {
    format!(
        "sluice-cni {}: reports Pods to sluiced; stands last in a CNI conflist.\n\
         CNI versions: {}\n\
         A runtime calls it with CNI_COMMAND and its configuration on standard input.\n",
        env!("CARGO_PKG_VERSION"),
        SUPPORTED.join(", "),
    )
}

/// Standard input, or the error of its read.
pub type Stdin = io::Result<Vec<u8>>;
