// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package journal is an append-only durable log of JSON payloads and the fold over them. It knows nothing of what the
// payloads mean.
//
// # Usage
//
// [Open] replays what is on disk into the caller's [Fold] and makes the log ready for writing. [Journal.Append] writes
// payloads as one atomic batch and returns when they are on disk and folded; Appends that run at the same time share
// one fdatasync. [Journal.Err] says why nothing can be written at the moment, [Journal.Ready] waits until something
// can. [Check], [Read] and [Export] work on the directory alone, also while an agent writes to it.
//
// # Guarantees
//
//   - Append returned nil: the entries are on disk, in order, and folded. They are found again after a crash at any
//     instruction and after a power cut.
//   - Append returned an error that is ErrUnknown: the entries may or may not be found after the next Open. Any other
//     error: they are not on disk and never will be.
//   - A batch is written only after the sync of the one before. So a power cut can spoil the last batch only: what is
//     bad there is torn, and is cut with a warning. What is bad before a frame of a later batch is damage: the journal
//     opens for reading up to that point and refuses to write.
//   - After a failed sync nothing more is written by this Journal, for the file may show what is in the page cache
//     only. The next Open writes the verified prefix of the last segment to a new file, so that what it found is on
//     disk before it goes on; the batch whose sync failed is kept if it is whole.
//   - A full or read-only disk makes Append fail and heals by itself.
//   - One writer: a second Open of the directory is refused and told who holds it.
//   - Altering, removing or reordering an entry breaks the hash chain, which shows against any [Head] noted elsewhere.
//
// # Obligations
//
// A Fold must accept at replay what it accepted when it was written. It must not call the Journal, and must copy a
// Payload that it keeps. Close must be called; it waits for background work.
//
// # Layout
//
//	DIR/
//	  lock                        flock; the holder's pid and host as text
//	  seg-FIRST.jsonl             a segment: header line, then entries FIRST, FIRST+1, ... (FIRST: 20 digits)
//	  snap-SEQ.json               a snapshot: header line, then the fold's bytes after entry SEQ
//	  stub-FIRST.json             what a segment that was moved to the archive held: range, hashes, size, digest
//	  archive/seg-FIRST.jsonl     segments that a snapshot replaces and that retention moved away; may be deleted
//	  *.tmp                       a replacement that was not finished; removed at the next Open
//
// Each line of a segment, and the first line of a snapshot or stub, is framed:
//
//	LENGTH SP CRC32C SP BODY LF   LENGTH and CRC32C of BODY: 8 hex digits each; BODY: one JSON object without LF
//
// The header of a segment, a snapshot, a stub:
//
//	{"felhom-journal":1,"id":"...","host":"...","first":9,"batch":4,"prev":"HASH8","time":"..."}
//	{"felhom-snapshot":1,"id":"...","host":"...","seq":8,"batch":4,"hash":"HASH8","bytes":812,"sha256":"...","time":"..."}
//	{"felhom-stub":1,"id":"...","host":"...","first":1,"last":8,"batch":0,"last_batch":4,"prev":"HASH0","hash":"HASH8",
//	 "bytes":2048,"sha256":"...","time":"..."}
//
// The number after the kind is the format's version; a larger one than [Version] is refused. id is random, made with
// the journal. HASH0, before the first entry, is the SHA-256 of "felhom journal", version, id and host. batch in a
// header is the last one before it.
//
// An entry:
//
//	{"seq":9,"batch":5,"part":"1/2","time":"2026-01-02T03:04:05.000000000Z","data":PAYLOAD,"hash":"HASH9"}
//
//	DIGESTn = sha256(BODY up to and without `,"hash"`), hex
//	HASHn   = sha256(HASHn-1 + DIGESTn), hex of the hex strings
//
// part 1/2 is the first of two entries of the batch; a batch without its last part is torn. A batch never spans two
// segments. The chain goes on from segment to segment through prev.
//
// # Testing
//
// All disk access goes through fsys.FS. The torture test fails, tears and crashes each call of its scenarios and keeps
// subsets of the unsynced pages; other tests kill a process and, where they may, cut a real file system off. [Check] runs
// after every test. With FELHOM_TORTURE=full in the environment the tests TestTortureJournal*, TestKilledProcess and
// TestPowerCut try everything instead of a sample; with -v each prints a row per scenario:
//
//	torture journal/SCENARIO points N lost 0 doubled 0 stuck 0
//
// A row whose scenario ends with "random" counts random rounds, the others distinct points.
package journal
