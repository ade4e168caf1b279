//! How a film and its sound look and sound to programs that were made to judge that: VMAF and PESQ.

use crate::films::{Film, publish};
use crate::state::State;
use crate::{Sample, Strength};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The programs; `scripts/mark/look` fetches them.
pub(crate) struct Judges {
    /// An ffmpeg with libvmaf.
    pub ffmpeg: PathBuf,
    /// A Python with the package `pesq`.
    pub python: PathBuf,
}

/// Marks a film and has it judged beside itself as it was, before it is encoded: what differs is the mark alone.
pub(crate) fn judge(
    state: &mut State,
    path: &Path,
    strength: Strength,
    judges: &Judges,
    folder: &Path,
) -> anyhow::Result<()> {
    let Sample { name, film, set, key, mark, loud } = Sample::load(path)?;
    let vmaf = !film.rgb.is_empty() && !state.has(&name, "look", "VMAF");
    let pesq = loud && !state.has(&name, "look", "PESQ");
    if !vmaf && !pesq {
        return Ok(());
    }
    publish(&film, &key.tiles(mark), strength, folder)?;
    if vmaf {
        let value = judges.vmaf(&film, folder)?;
        state.add(&name, set, ["look", "VMAF", "measured"], value, 0.0)?;
    }
    // What has no speech in it has no PESQ.
    if let Some(value) = if pesq { judges.pesq(&film, folder)? } else { None } {
        state.add(&name, set, ["look", "PESQ", "measured"], value, 0.0)?;
    }
    Ok(())
}

impl Judges {
    fn vmaf(&self, film: &Film, folder: &Path) -> anyhow::Result<f64> {
        let own = folder.join("own.rgb");
        std::fs::write(&own, &film.rgb)?;
        let size = format!("{}x{}", film.width, film.height);
        let mut command = Command::new(&self.ffmpeg);
        command.args(["-hide_banner", "-nostdin"]);
        for path in [&folder.join("marked.rgb"), &own] {
            command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-framerate", &film.rate]);
            command.args(["-video_size", &size, "-i"]).arg(path);
        }
        let graph =
            "[0]format=yuv420p[marked];[1]format=yuv420p[own];[marked][own]libvmaf=n_threads=2";
        let said = said(command.args(["-lavfi", graph, "-f", "null", "-"]).output()?)?;
        let score = said.rsplit("VMAF score: ").next().and_then(|rest| rest.lines().next());
        Ok(score.context("ffmpeg says no VMAF")?.trim().parse()?)
    }

    fn pesq(&self, film: &Film, folder: &Path) -> anyhow::Result<Option<f64>> {
        let own = folder.join("own.f32");
        let bytes: Vec<u8> = film.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        std::fs::write(&own, bytes)?;
        let mut command = Command::new(&self.python);
        let said = command.arg("scripts/mark/pesq_of.py").arg(own).arg(folder.join("marked.f32"));
        let output = said.output()?;
        ensure!(output.status.success(), "pesq: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
    }
}

fn said(output: Output) -> anyhow::Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}
