//! Where things lie on this machine: the data folder, the worker's program, the model that ships with it.

use crate::documents::{Documents, Folder};
use anyhow::{Context, bail};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The file in the data folder with the API key of its farm.
pub const KEY_FILE: &str = "api-key";
/// The file in the data folder with the address of its farm.
pub const URL_FILE: &str = "url";
/// Name of the worker's program.
const WORKER: &str = "zoetrope-worker";
/// Where the model lies in the source tree and beside an installed program.
const MODEL: [&str; 3] = ["worker/models/toybox", "models/toybox", "share/zoetrope/models/toybox"];

/// The data folder: as given, or `zoetrope` where this user's programs keep their data.
pub fn data_folder(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(folder.to_owned());
    }
    if let Some(data) = std::env::var_os("XDG_DATA_HOME").filter(|data| !data.is_empty()) {
        return Ok(PathBuf::from(data).join("zoetrope"));
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.context("there is no HOME to keep data in; name a folder with --data")?;
    Ok(PathBuf::from(home).join(".local/share/zoetrope"))
}

/// The worker's program: beside this one, or on the path.
pub fn worker_program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(program) = given {
        if program.is_file() {
            return Ok(program.to_owned());
        }
        bail!("there is no program {}", program.display());
    }
    let own = std::env::current_exe().context("this program does not know where it lies")?;
    let beside = own.with_file_name(WORKER);
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(WORKER)).find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "there is no {WORKER} beside {} nor on the PATH; build it (cargo build --release -p \
             {WORKER}) or name it with --worker-program",
            own.display()
        )
    })
}

/// The folder of the model that ships with the project: looked for from here and from the program upwards.
pub fn model_folder(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = given {
        if folder.join("manifest.json").is_file() {
            return Ok(std::path::absolute(folder)?);
        }
        bail!("{} is no model folder: it has no manifest.json", folder.display());
    }
    let own = std::env::current_exe().unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let mut roots = here.ancestors().take(1).chain(own.ancestors().skip(1).take(4));
    let found = roots.find_map(|root| {
        MODEL.iter().map(|place| root.join(place)).find(|p| p.join("manifest.json").is_file())
    });
    found.context("the model folder is not to be found; name it with --model")
}

/// A file that holds one short text, such as a key.
pub fn word_in(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let word = text.trim();
    (!word.is_empty()).then(|| word.to_owned())
}

/// Says in the data folder where its farm is, for clients on this machine.
pub fn write_url(data: &Path, http: SocketAddr) -> anyhow::Result<String> {
    let url = format!("http://{}", reachable(http));
    write(&data.join(URL_FILE), &url)?;
    Ok(url)
}

/// A client that looks here later must not talk to whoever has the port then.
pub fn forget_url(data: &Path) {
    let _gone = std::fs::remove_file(data.join(URL_FILE));
}

/// The address that a client on this machine uses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address.ip() };
    SocketAddr::new(ip, address.port())
}

/// Replaces a file that only this user may read, durably.
pub fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = Folder(folder.unwrap_or(Path::new(".")).to_owned());
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    folder
        .write(name, format!("{text}\n").as_bytes())
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_reach_what_listens_everywhere() {
        let any: SocketAddr = "0.0.0.0:80".parse().expect("an address");
        assert_eq!(reachable(any).to_string(), "127.0.0.1:80");
    }

    #[test]
    fn a_farm_that_has_ended_leaves_no_address() {
        let folder = tempfile::tempdir().expect("folder");
        let any: SocketAddr = "0.0.0.0:80".parse().expect("an address");
        let url = write_url(folder.path(), any).expect("writes");
        assert_eq!(word_in(&folder.path().join(URL_FILE)), Some(url));
        forget_url(folder.path());
        assert_eq!(word_in(&folder.path().join(URL_FILE)), None);
    }

    #[test]
    fn only_this_user_reads_the_key() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join(KEY_FILE);
        write(&file, "zk_1").expect("writes");
        let mode = std::fs::metadata(&file).expect("is there").permissions().mode();
        assert_eq!((mode & 0o777, word_in(&file).as_deref()), (0o600, Some("zk_1")));
    }
}
