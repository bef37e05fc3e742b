// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"regexp"
)

// mask is one field that is not compared by value, only by presence and JSON
// type.
type mask struct {
	uri    *regexp.Regexp // of the request, without /api2/json
	field  *regexp.Regexp // path in the body: data.*.cpu
	reason string
}

func m(uri, field, reason string) mask {
	return mask{regexp.MustCompile(uri), regexp.MustCompile(`^(?:` + field + `)$`), reason}
}

const guestRead = `^/nodes/[^/]+/(lxc|qemu)$|/status/current$|^/cluster/resources|^/pools/`

var masks = []mask{
	m(guestRead, `data\.(\d+\.|members\.\d+\.)?cpu`, "load of a real guest, measured"),
	m(guestRead, `data\.(\d+\.|members\.\d+\.)?(mem|memhost)`, "memory in use by a real guest, measured"),
	m(guestRead, `data\.(\d+\.|members\.\d+\.)?(netin|netout|diskread|diskwrite)`, "traffic of a real guest, measured"),
	m(guestRead, `data\.(\d+\.|members\.\d+\.)?disk`, "space in use on a real file system, measured"),
	m(guestRead, `data\.(\d+\.|members\.\d+\.)?uptime`, "seconds since a start whose instant is known to the second only"),
	m(guestRead, `data\.(\d+\.)?pid`, "process id"),
	m(guestRead, `data\.(\d+\.)?pressure\w+`, "pressure of a real host, measured"),
	m(`/status/current$`, `data\.(\d+\.)?(nics|blockstat|ballooninfo|balloon|freemem|proxmox-support|running-machine|running-qemu)(\..*)?`, "what a real QEMU process reports"),
	m(`/nodes/[^/]+/status$`, `data\.(uptime|cpu|wait|idle|loadavg\.\d)`, "load of a real host, measured"),
	m(`/nodes/[^/]+/status$`, `data\.(memory|rootfs|swap)\.(used|free|avail|available)`, "memory and space in use on a real host, measured"),
	m(`/storage`, `data\.(\d+\.)?(used|avail|used_fraction)`, "space in use on a real file system, measured"),
	m(`/storage`, `data\.(\d+\.)?ctime`, "file times of a real storage"),
	m(`/storage`, `data\.(\d+\.)?size`, "size of a real archive or file"),
	m(`/tasks`, `data\.(\d+\.)?(pid|pstart)`, "process id and start tick of the worker"),
	m(`/tasks`, `data\.(\d+\.)?(starttime|endtime)`, "instants that are known to the second only"),
	m(`^/nodes/[^/]+/tasks$`, `total`, "tasks from before the recording and of requests that were not kept"),
	m(`/access/ticket$`, `data\.(ticket|CSRFPreventionToken)`, "random secret"),
	m(`/rrddata$`, `data\.\d+\.(disk|maxdisk)`, "average over a minute of what a real guest used"),
	m(`^/storage$`, `data\.\d+\.digest`, "covers a file whose order of lists is random"),
	m(`^/nodes$`, `data\.\d+\.ssl_fingerprint`, "fingerprint of a generated certificate"),
}

// maskFor returns the mask of a field, or nil.
func maskFor(uri, field string) *mask {
	for i := range masks {
		if masks[i].uri.MatchString(uri) && masks[i].field.MatchString(field) {
			return &masks[i]
		}
	}
	return nil
}

// unordered are lists that PVE gives in random order, with the key that
// names an element.
var unordered = []struct {
	uri *regexp.Regexp
	key string
	why string
}{
	{regexp.MustCompile(`/(lxc|qemu)$`), "vmid", "order of a Perl hash"},
	{regexp.MustCompile(`/pending$`), "key", "order of a Perl hash"},
	{regexp.MustCompile(`^/cluster/resources|^/pools/`), "id", "order of a Perl hash"},
	{regexp.MustCompile(`/content$`), "volid", "order of a directory"},
	{regexp.MustCompile(`/snapshot$`), "name", "order of a Perl hash"},
	{regexp.MustCompile(`^/storage$|/storage$`), "storage", "order of a Perl hash"},
	{regexp.MustCompile(`^/access/roles$`), "roleid", "order of a Perl hash"},
	{regexp.MustCompile(`^/access/users$`), "userid", "order of a Perl hash"},
	{regexp.MustCompile(`^/access/acl$`), "path+ugid+roleid", "order of a Perl hash"},
}

// commaSets are strings whose parts PVE joins in random order.
var commaSets = []struct {
	uri, field *regexp.Regexp
	why        string
}{
	{regexp.MustCompile(`/storage|^/cluster/resources|^/pools/`), regexp.MustCompile(`\.content$`), "order of a Perl hash"},
}

// noise are measured values within the text of a task's log; what a group
// "keep" matches is compared all the same.
var noise = []struct {
	re  *regexp.Regexp
	why string
}{
	{regexp.MustCompile(`\d+(\.\d+)?[KMG]iB/s`), "throughput of a real disk"},
	{regexp.MustCompile(`\d+/\d+ files \(\d+\.\d+% non-contiguous\), \d+/\d+ blocks`), "what a file system check counted"},
	{regexp.MustCompile(`(started at|finished at|Failed at) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "second of a backup"},
	{regexp.MustCompile(`/proc/\d+/root|vzdumptmp\d+_`), "process id"},
	{regexp.MustCompile(`^(?P<keep>(Number of|Total|Literal|Matched|File list) [\w ]+: ).*`), "what a copy of a real file tree counted"},
	{regexp.MustCompile(`^(?P<keep>sent |total size is ).*`), "what a copy of a real file tree counted"},
	{regexp.MustCompile(`\(\d\d:\d\d:\d\d\)|after \d+ seconds`), "duration of a backup"},
	{regexp.MustCompile(`Total bytes (written|read): \d+ \([^)]*\)|archive file size: \S+`), "size of a real archive"},
}
