//! The journal's promises: what was acknowledged is there after any death, and what is missing is said.

use super::writer::{Command, Report, Writer};
use super::{JournalError, open, recovery, snapshot};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::time::Duration;

/// A record's body says its number, so that a test can tell one from another.
fn body(seq: u64) -> Vec<u8> {
    let mut body = seq.to_le_bytes().to_vec();
    body.resize(8 + (seq % 700) as usize, seq as u8);
    body
}

fn append(writer: &mut Writer, records: u64) {
    let bodies: Vec<_> = (writer.next()..writer.next() + records).map(body).collect();
    writer.append(&bodies).expect("appends");
}

fn sequences(records: &[(u64, Vec<u8>)]) -> Vec<u64> {
    records.iter().map(|(seq, _)| *seq).collect()
}

#[test]
fn records_are_there_after_opening_again_and_a_second_opener_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut opened = open(folder.path(), false).expect("opens");
    append(&mut opened.writer, 20);
    assert!(matches!(open(folder.path(), false), Err(JournalError::InUse(_))));
    drop(opened);
    let again = open(folder.path(), false).expect("opens again");
    assert_eq!(sequences(&again.records), (1..=20).collect::<Vec<_>>());
    assert_eq!(again.writer.next(), 21);
}

#[test]
fn a_torn_record_at_the_end_is_cut_and_its_number_used_again() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut opened = open(folder.path(), false).expect("opens");
    append(&mut opened.writer, 5);
    drop(opened);
    damage(folder.path(), 1, 5);
    let mut again = open(folder.path(), false).expect("opens again");
    assert_eq!(sequences(&again.records), vec![1, 2, 3, 4]);
    append(&mut again.writer, 1);
    drop(again);
    assert_eq!(open(folder.path(), false).expect("opens").records.len(), 5);
}

#[test]
fn a_missing_record_refuses_to_start_and_says_what_is_lost() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut opened = open(folder.path(), false).expect("opens");
    append(&mut opened.writer, 9);
    drop(opened);
    damage(folder.path(), 1, 4);
    let Err(JournalError::Missing(loss)) = open(folder.path(), false) else {
        panic!("a journal with a gap opened");
    };
    assert_eq!((loss.missing.as_slice(), loss.behind), (&[(4, 4)][..], 5));
    let accepted = open(folder.path(), true).expect("opens, as asked");
    assert_eq!(sequences(&accepted.records), vec![1, 2, 3, 5, 6, 7, 8, 9]);
    assert_eq!(accepted.loss, Some(loss));
}

#[test]
fn a_segment_that_vanished_is_missed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    run(folder.path(), 3, &[5, 10]);
    std::fs::remove_dir_all(recovery::segment_path(folder.path(), 6)).expect("removes");
    std::fs::remove_file(snapshot::path(folder.path(), 10)).expect("removes");
    let refused = open(folder.path(), false).err().expect("a segment is missing").to_string();
    assert!(refused.contains("6 to 10"), "{refused}");
    assert!(refused.contains("--accept-journal-loss"), "{refused}");
}

#[test]
fn a_snapshot_stands_for_what_is_behind_it_and_old_segments_leave() {
    let folder = tempfile::tempdir().expect("temporary folder");
    run(folder.path(), 2, &[5, 10, 15]);
    let recovered = open(folder.path(), false).expect("opens");
    assert_eq!(recovered.snapshot, Some((15, b"state 15".to_vec().into())));
    assert_eq!(sequences(&recovered.records), vec![16, 17]);
    assert_eq!(snapshot::list(folder.path()).expect("lists"), vec![15, 10]);
    assert!(!recovery::segment_path(folder.path(), 6).exists(), "behind both snapshots");
    drop(recovered);
    // A damaged newest snapshot costs time and no data.
    std::fs::write(snapshot::path(folder.path(), 15), b"ZTSNAP01 half").expect("writes");
    let recovered = open(folder.path(), false).expect("opens");
    assert_eq!(recovered.snapshot, Some((10, b"state 10".to_vec().into())));
    assert_eq!(sequences(&recovered.records), vec![11, 12, 13, 14, 15, 16, 17]);
}

/// What a killed process leaves of the storage engine's own snapshot must not cost a record.
#[test]
fn a_half_written_snapshot_of_the_storage_engine_costs_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut opened = open(folder.path(), false).expect("opens");
    append(&mut opened.writer, 12);
    drop(opened);
    let segment = recovery::segment_path(folder.path(), 1);
    std::fs::write(segment.join("snap.00000000000000ff.generating"), b"half").expect("writes");
    assert_eq!(open(folder.path(), false).expect("opens").records.len(), 12);
}

/// A segment that neither opens nor can be repaired is refused in words, and stays as it was for a person.
#[test]
fn a_segment_that_does_not_open_is_refused_and_kept() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut opened = open(folder.path(), false).expect("opens");
    append(&mut opened.writer, 12);
    drop(opened);
    let segment = recovery::segment_path(folder.path(), 1);
    let (data, aside) = (segment.join("db"), segment.join("aside"));
    std::fs::rename(&data, &aside).expect("renames");
    std::fs::create_dir(&data).expect("makes");
    let refused = open(folder.path(), false).err().expect("does not open").to_string();
    assert!(refused.contains("does not open") && refused.contains("copy"), "{refused}");
    let left = std::fs::read_dir(folder.path()).expect("lists").count();
    assert_eq!(left, 2, "the lock and the segment: no failed copy stays");
    std::fs::remove_dir(&data).expect("removes");
    std::fs::rename(&aside, &data).expect("renames");
    assert_eq!(open(folder.path(), false).expect("opens").records.len(), 12);

    // Where an operator accepts the loss it is put beside, and the loss is told.
    std::fs::rename(&data, &aside).expect("renames");
    std::fs::create_dir(&data).expect("makes");
    let mut accepted = open(folder.path(), true).expect("opens, as asked");
    let loss = accepted.loss.clone().expect("all of it");
    assert_eq!((accepted.records.len(), loss.unknown_from), (0, Some(1)));
    assert!(loss.to_string().contains("all from 1 on"), "{loss}");
    append(&mut accepted.writer, 3);
    drop(accepted);
    assert_eq!(open(folder.path(), false).expect("opens").records.len(), 3);
    assert!(folder.path().join(format!("refused-1-{}", segment_name(&segment))).exists());
}

fn segment_name(segment: &Path) -> String {
    segment.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The records of other segments are kept where one does not open.
#[test]
fn an_accepted_loss_of_one_segment_keeps_the_others() {
    let folder = tempfile::tempdir().expect("temporary folder");
    run(folder.path(), 3, &[5, 10]);
    std::fs::remove_file(snapshot::path(folder.path(), 10)).expect("removes");
    let data = recovery::segment_path(folder.path(), 6).join("db");
    std::fs::rename(&data, data.with_extension("away")).expect("renames");
    std::fs::create_dir(&data).expect("makes");
    let refused = open(folder.path(), false).err().expect("does not open").to_string();
    assert!(refused.contains("--accept-journal-loss"), "{refused}");
    let accepted = open(folder.path(), true).expect("opens, as asked");
    assert_eq!(accepted.snapshot, Some((5, b"state 5".to_vec().into())));
    assert_eq!(sequences(&accepted.records), vec![11, 12, 13]);
    let loss = accepted.loss.expect("a loss");
    assert_eq!((loss.missing, loss.unknown_from), (vec![(6, 10)], None));
}

/// Appends five records before each snapshot and `tail` behind the last, on the journal's own thread.
fn run(folder: &Path, tail: u64, snapshots: &[u64]) {
    let writer = open(folder, false).expect("opens").writer;
    let (commands, queue) = channel();
    let (reports, told) = channel();
    let back = commands.clone();
    let waiting = Arc::new(AtomicU64::new(u64::MAX / 2));
    let thread = std::thread::spawn(move || {
        writer.run(&queue, &back, &waiting, &|report| reports.send(report).expect("told"));
    });
    for through in snapshots {
        let bodies = (through - 4..=*through).map(body).collect();
        commands.send(Command::Append(bodies)).expect("runs");
        let state = format!("state {through}").into_bytes();
        commands.send(Command::Snapshot(Box::new(move |_| Ok(state.into())))).expect("runs");
        while !matches!(told.recv().expect("reports"), Report::SnapshotTaken { .. }) {}
    }
    let last = snapshots.last().copied().unwrap_or(0);
    commands.send(Command::Append((last + 1..=last + tail).map(body).collect())).expect("runs");
    commands.send(Command::Stop).expect("runs");
    thread.join().expect("ends");
}

/// Promise: the last snapshot is on disk when the thread has ended, however soon after it that was told to end.
#[test]
fn the_end_waits_for_the_last_snapshot() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let writer = open(folder.path(), false).expect("opens").writer;
    let (commands, queue) = channel();
    let back = commands.clone();
    let waiting = Arc::new(AtomicU64::new(u64::MAX / 2));
    commands.send(Command::Append((1..=3).map(body).collect())).expect("runs");
    let slow = |_| {
        std::thread::sleep(Duration::from_millis(100));
        Ok(b"the state".to_vec().into())
    };
    commands.send(Command::LastSnapshot(Box::new(slow))).expect("runs");
    commands.send(Command::Stop).expect("runs");
    writer.run(&queue, &back, &waiting, &|_| {});
    let found = open(folder.path(), false).expect("opens");
    assert_eq!(found.snapshot.map(|(through, _)| through), Some(3));
    assert!(found.records.is_empty());
}

/// Promise: nor does it matter that another one is being saved: the last one follows it, or is it where nothing came since.
#[test]
fn the_last_snapshot_comes_behind_one_that_is_being_saved() {
    for (since, state) in [(0, &b"one"[..]), (2, b"last")] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let writer = open(folder.path(), false).expect("opens").writer;
        let (commands, queue) = channel();
        let back = commands.clone();
        let waiting = Arc::new(AtomicU64::new(u64::MAX / 2));
        let slow = |state: &'static [u8]| {
            let body = move |_| {
                std::thread::sleep(Duration::from_millis(100));
                Ok(state.to_vec().into())
            };
            Box::new(body)
        };
        commands.send(Command::Append((1..=3).map(body).collect())).expect("runs");
        commands.send(Command::Snapshot(slow(b"one"))).expect("runs");
        commands.send(Command::Append((4..=3 + since).map(body).collect())).expect("runs");
        // Skipped: the next one is due when it is.
        commands.send(Command::Snapshot(slow(b"two"))).expect("runs");
        commands.send(Command::LastSnapshot(slow(b"last"))).expect("runs");
        commands.send(Command::Stop).expect("runs");
        writer.run(&queue, &back, &waiting, &|_| {});
        let found = open(folder.path(), false).expect("opens");
        assert_eq!(found.snapshot, Some((3 + since, state.to_vec().into())));
        assert!(found.records.is_empty());
    }
}

/// Flips a bit in the value of a record, below the storage engine's own checksum.
fn damage(folder: &Path, segment: u64, seq: u64) {
    let path = recovery::segment_path(folder, segment);
    super::segment::damage(&path, seq);
}

const CHILD: &str = "ZOETROPE_JOURNAL_CHILD";

/// Not a test of its own: the child process of the kill loop, which appends until it is killed.
#[test]
fn child_appends_until_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let recovered = open(Path::new(&folder), false).expect("opens");
    let mut next = recovered.writer.next();
    let (commands, queue) = channel();
    let back = commands.clone();
    let waiting = Arc::new(AtomicU64::new(u64::MAX / 2));
    let writer = recovered.writer;
    std::thread::spawn(move || {
        writer.run(&queue, &back, &waiting, &|report| {
            if let Report::Synced { through, .. } = report {
                // One write call, so that a line is whole or absent.
                use std::io::Write;
                let line = format!("acked {through}\n");
                std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
            }
        });
    });
    for round in 1u64.. {
        let bodies: Vec<_> = (next..next + 1 + round % 7).map(body).collect();
        next += bodies.len() as u64;
        commands.send(Command::Append(bodies)).expect("runs");
        if round % 150 == 0 {
            let state = vec![7; 200_000];
            commands.send(Command::Snapshot(Box::new(move |_| Ok(state.into())))).expect("runs");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn child(folder: &Path) -> Child {
    let program = std::env::current_exe().expect("this test");
    std::process::Command::new(program)
        .args(["journal::tests::child_appends_until_killed", "--exact", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("starts")
}

/// Promise: `kill -9` at any moment loses no acknowledged record and leaves no gap.
#[test]
fn kill_9_loses_no_acknowledged_record() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let rounds: u64 =
        std::env::var("ZOETROPE_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(32);
    let mut dice = 0x5eed_u64;
    let mut total = 0;
    for round in 0..rounds {
        let mut running = child(folder.path());
        let stdout = running.stdout.take().expect("piped");
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.filter_map(|line| line.split_once("acked ")?.1.parse::<u64>().ok()).max()
        });
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_millis(40 + (dice >> 33) % 260));
        running.kill().expect("kills");
        running.wait().expect("is dead");
        let acked = reader.join().expect("reads").unwrap_or(0);
        let opened = open(folder.path(), false);
        let recovered = match opened {
            Ok(recovered) => recovered,
            // What a storage engine left behind in that moment is rare, and worth a look.
            Err(e) => panic!("round {round}: {e}; kept at {}", folder.keep().display()),
        };
        let base = recovered.snapshot.as_ref().map_or(0, |(seq, _)| *seq);
        let last = recovered.writer.next() - 1;
        assert!(last >= acked, "round {round}: {acked} was acknowledged, {last} is the last");
        assert_eq!(sequences(&recovered.records), (base + 1..=last).collect::<Vec<_>>());
        for (seq, bytes) in &recovered.records {
            assert_eq!(*bytes, body(*seq), "round {round}: record {seq}");
        }
        total = last;
    }
    eprintln!("{rounds} kills, {total} records, none lost");
    assert!(total > rounds, "the children did append");
}
