//! `scanlogin keys`: makes what signs id_tokens.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

use crate::oidc::{Algorithm, new_key_set};

/// Prints a new private JWK Set, or writes it to a file that only its owner can read. A file that is there stays as it is.
///
/// # Errors
/// When the file can't be written.
pub fn new(algorithms: &[Algorithm], out: Option<&Path>) -> anyhow::Result<()> {
    let key_set = new_key_set(&algorithms.iter().copied().collect())?;
    let Some(path) = out else {
        writeln!(std::io::stdout(), "{}", key_set.as_str())?;
        return Ok(());
    };
    if path.exists() {
        writeln!(
            std::io::stderr(),
            "{} is there already and stays as it is",
            path.display()
        )?;
        return Ok(());
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("--out {}", path.display()))?;
    writeln!(file, "{}", key_set.as_str())?;
    Ok(())
}
