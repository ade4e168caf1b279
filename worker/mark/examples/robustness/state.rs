//! What was measured, kept in a file, and as tables.

use anyhow::anyhow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

/// What was measured before: lines of film, set, attack, kind, outcome, agreement, milliseconds, with tabs between.
pub(crate) struct State {
    path: PathBuf,
    pub lines: Vec<[String; 7]>,
    known: BTreeSet<(String, String, String)>,
}

impl State {
    pub fn open(path: PathBuf) -> anyhow::Result<State> {
        let mut state = State { path, lines: Vec::new(), known: BTreeSet::new() };
        let text = std::fs::read_to_string(&state.path).unwrap_or_default();
        for line in text.lines() {
            let parts: Vec<String> = line.split('\t').map(str::to_owned).collect();
            let parts: [String; 7] = parts.try_into().map_err(|_| anyhow!("state: {line:?}"))?;
            state.keep(parts);
        }
        Ok(state)
    }

    fn keep(&mut self, line: [String; 7]) {
        self.known.insert((line[0].clone(), line[2].clone(), line[3].clone()));
        self.lines.push(line);
    }

    pub fn has(&self, film: &str, attack: &str, kind: &str) -> bool {
        self.known.contains(&(film.to_owned(), attack.to_owned(), kind.to_owned()))
    }

    pub fn add(
        &mut self,
        film: &str,
        set: &str,
        line: [&str; 3],
        best: f64,
        ms: f64,
    ) -> anyhow::Result<()> {
        let [attack, kind, outcome] = line;
        let numbers = [format!("{best:.4}"), format!("{ms:.0}")];
        let words = [film, set, attack, kind, outcome].map(str::to_owned);
        let [film, set, attack, kind, outcome] = words;
        let [best, ms] = numbers;
        let line = [film, set, attack, kind, outcome, best, ms];
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.path)?;
        writeln!(file, "{}", line.join("\t"))?;
        self.keep(line);
        Ok(())
    }
}

/// One cell of the table.
#[derive(Default)]
struct Cell {
    right: u32,
    wrong: u32,
    best: Vec<f64>,
}

pub(crate) fn table(state: &State) {
    // By kind, place in the list of attacks, attack and set.
    let mut cells: BTreeMap<(&str, usize, &str, &str), Cell> = BTreeMap::new();
    let place =
        |attack: &str| crate::ATTACKS.iter().position(|(name, ..)| *name == attack).unwrap_or(99);
    for [_, set, attack, kind, outcome, best, _] in &state.lines {
        if attack == "look" || attack == "done" {
            continue;
        }
        let key = (kind.as_str(), place(attack), attack.as_str(), set.as_str());
        let cell = cells.entry(key).or_default();
        cell.right += u32::from(outcome == "right");
        cell.wrong += u32::from(outcome == "wrong");
        cell.best.push(best.parse().unwrap_or(0.0));
    }
    println!(
        "| kind | attack | set | recovered (95 % interval) | wrong id | agreement, least, median, most |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for ((kind, _, attack, set), Cell { right, wrong, mut best }) in cells {
        best.sort_by(f64::total_cmp);
        let (least, median, most) = (best[0], best[best.len() / 2], best[best.len() - 1]);
        let hits = interval(right, best.len() as u32);
        println!(
            "| {kind} | {attack} | {set} | {hits} | {wrong} | {least:.1}, {median:.1}, {most:.1} |"
        );
    }
    let mut looks: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for [_, set, attack, kind, _, value, _] in &state.lines {
        if attack == "look" {
            looks.entry((set, kind)).or_default().push(value.parse().unwrap_or(0.0));
        }
    }
    println!("\n| set | what | films | least | mean |\n| --- | --- | --- | --- | --- |");
    for ((set, kind), values) in looks {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        println!("| {set} | {kind} | {} | {least:.3} | {mean:.3} |", values.len());
    }
}

/// Wilson's interval of 95 %.
fn interval(hits: u32, of: u32) -> String {
    let (n, p, z) = (f64::from(of), f64::from(hits) / f64::from(of.max(1)), 1.96f64);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    format!(
        "{hits}/{of} ({:.0} to {:.0} %)",
        100.0 * (middle - half).max(0.0),
        100.0 * (middle + half).min(1.0)
    )
}
