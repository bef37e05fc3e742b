#!/usr/bin/python3
# Copyright The felhom-agent authors
# SPDX-License-Identifier: Apache-2.0
"""A provider whose source is a table: a CSV file that another system exports.

    vmid,kind,run,cores,memory,onboot,tags
    101,lxc,running,2,512MiB,true,web;prod
    102,qemu,,4,,,

Each row is one guest. A column that is missing and a field that is empty are
not managed. Configuration: path, the file; poll_seconds, how often it is read
(2). A table that cannot be read, or has a row that makes no sense, is an error
of the whole: the agent keeps the last good state and shows the reason.
"""

import csv
import hashlib
import io
import json
import os

import felhom_plugin as felhom

COLUMNS = ("vmid", "kind", "run", "cores", "memory", "swap", "onboot", "tags", "description")
MAX_SIZE = 4 << 20


class BadTable(Exception):
    """What is wrong with the table, with the row."""


class Inventory:
    name, version = "inventory", "1.0"

    def configure(self, config, secrets):
        felhom.only(config, "path", "poll_seconds")
        self.path = config.get("path", "")
        self.poll = config.get("poll_seconds", 2)
        if not isinstance(self.path, str) or not os.path.isabs(self.path):
            raise felhom.Invalid("config: path: want the absolute path of a CSV file")
        if isinstance(self.poll, bool) or not isinstance(self.poll, (int, float)) or not 0.05 <= self.poll <= 3600:
            raise felhom.Invalid("config: poll_seconds: want a number from 0.05 to 3600")

    def watch(self, ended):
        sent = None
        while not ended.is_set():
            snapshot = self.read()
            state = (snapshot.revision, snapshot.error)
            if state != sent:
                rejected = yield snapshot
                if rejected:
                    felhom.log("warn", "the agent does not take the table", reason=rejected, revision=snapshot.revision)
                sent = state
            ended.wait(self.poll)

    def read(self):
        """The table as it is now, or why it cannot be read."""
        try:
            with open(self.path, "rb") as f:
                raw = f.read(MAX_SIZE + 1)
            if len(raw) > MAX_SIZE:
                raise BadTable(f"more than {MAX_SIZE >> 20} MiB")
            document = convert(raw.decode("utf-8-sig"))
        except (OSError, UnicodeDecodeError, csv.Error, BadTable) as e:
            return felhom.Snapshot(error=f"{self.path}: {e}")
        # The name of a revision is what it holds: equal ones are equal.
        return felhom.Snapshot("sha256:" + hashlib.sha256(document).hexdigest(), {"inventory.json": document})


def convert(table):
    """A document, as felhom-desired(5) has it, made of the text of a table."""
    rows = csv.DictReader(io.StringIO(table), strict=True)
    if not rows.fieldnames:
        raise BadTable("the file is empty; a table without guests has its first line")
    for column in rows.fieldnames:
        if column not in COLUMNS:
            raise BadTable(f"column {column!r} is not known; known are {', '.join(COLUMNS)}")
    guests = {}
    for row in rows:
        if None in row or None in row.values():
            raise BadTable(f"line {rows.line_num}: not as many fields as columns")
        vmid, g = guest(row, rows.line_num)
        if vmid in guests:
            raise BadTable(f"line {rows.line_num}: guest {vmid} is there twice")
        guests[vmid] = g
    return json.dumps({"guest": guests}, indent=1, sort_keys=True).encode()


def guest(row, line):
    """One row. What the values mean is for the agent to check."""
    row = {k: v.strip() for k, v in row.items()}
    vmid = row.pop("vmid", "")
    if not vmid.isdigit():
        raise BadTable(f"line {line}: vmid {vmid!r} is not a number")
    g = {k: v for k, v in row.items() if v}
    if "cores" in g:
        if not g["cores"].isdigit():
            raise BadTable(f"line {line}: cores {g['cores']!r} is not a number")
        g["cores"] = int(g["cores"])
    if "onboot" in g:
        if g["onboot"] not in ("true", "false"):
            raise BadTable(f"line {line}: onboot {g['onboot']!r} is neither true nor false")
        g["onboot"] = g["onboot"] == "true"
    if "tags" in g:
        g["tags"] = g["tags"].split(";")
    return vmid, g


if __name__ == "__main__":
    felhom.serve(provider=Inventory())
