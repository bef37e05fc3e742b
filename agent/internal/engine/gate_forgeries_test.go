// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/gate/gatetest"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/signers"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// forgedTexts: the text is not in the one form that counts.
func forgedTexts() []forgery {
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	return []forgery{
		{"one byte altered after signing", nil, func(f *forging) { f.text = strings.Replace(f.text, "8G", "9G", 1) }, "signature-bad"},
		{"CRLF, signed so", nil, rewrite(crlf), "text-crlf"},
		{"CRLF after signing", nil, func(f *forging) { f.text = crlf(f.text) }, "text-crlf"},
		{"trailing newline", nil, rewrite(func(s string) string { return s + "\n" }), "text-trailing-newline"},
		{"trailing newline after signing", nil, func(f *forging) { f.text += "\n" }, "text-trailing-newline"},
		{"last newline cut off", nil, rewrite(func(s string) string { return s[:len(s)-1] }), "text-cut"},
		{"last effect cut off after signing", nil, func(f *forging) {
			f.text = f.text[:strings.LastIndex(f.text[:len(f.text)-1], "\n")+1]
		}, "signature-bad"},
		{"a line left out", nil, swap("host: pve1\n", ""), "text-missing-line"},
		{"a line twice", nil, swap("host: pve1\n", "host: pve1\nhost: pve1\n"), "text-repeated-line"},
		{"lines in another order", nil, swap("host: pve1\nguest: lxc/105\n", "guest: lxc/105\nhost: pve1\n"), "text-order"},
		{"a line that no request has", nil, swap("nonce:", "force: yes\nnonce:"), "text-unknown-line"},
		{"a letter that looks alike", nil, swap("pve1", "pv\u04351"), "text-character"},
		{"a blank at a line's end", nil, swap("pve1\n", "pve1 \n"), "text-line"},
		{"another version of the form", nil, swap("request v1", "request v2"), "text-header"},
		{"a permit's text", nil, func(f *forging) {
			f.text = permitText(f.rig, func(p *gate.Permit) { p.Actions = []string{"rollback"} })
			f.sigs = f.p.signed(f.text, alice)
		}, "text-header"},
		{"no text", nil, rewrite(func(string) string { return "" }), "text-cut"},
		{"a time with an offset", nil, swap("Z\nnot-after", "+00:00\nnot-after"), "text-value"},
	}
}

// forgedMeanings: texts in good form, truly signed, that say something else
// than what the agent issued.
func forgedMeanings() []forgery {
	other := strings.Repeat("ce", 32)
	return []forgery{
		{"another op", nil, line("op", "0123456789abcdef012345"), "other-op"},
		{"the request of another op that waits", nil, func(f *forging) {
			f.text = f.rig.ask(plugin.DeleteSnapshot, map[string]string{"name": "before"}).Request
			f.sigs = f.p.signed(f.text, alice)
		}, "other-op"},
		{"another host's", nil, line("host", "pve2"), "other-host"},
		{"another guest's", nil, line("guest", "lxc/106"), "other-guest"},
		{"another kind of guest", nil, line("guest", "qemu/105"), "other-guest"},
		{"another incarnation", nil, line("incarnation", "AAAABBBBCCCCDDDDEEEEFFFFGG"), "other-incarnation"},
		{"another action", nil, line("action", "delete_snapshot"), "other-action"},
		{"a benign class", nil, line("class", "benign"), "no-rule"},
		{"another plan", nil, line("plan", other), "other-plan"},
		{"an effect less", nil, reread(func(r *gate.Request) { r.Effects = r.Effects[:1] }), "other-effects"},
		{"an effect more", nil, reread(func(r *gate.Request) { r.Effects = append(r.Effects, "mp9 is deleted") }), "other-effects"},
		{"another asker", nil, line("asker", "carol@example.com"), "other-asker"},
		{"a nonce of the forger's own", nil, line("nonce", strings.Repeat("0d", 16)), "other-nonce"},
		{"a window that is longer", nil, reread(func(r *gate.Request) { r.NotAfter = r.NotAfter.Add(30 * time.Minute) }), "not-issued"},
		{"a window longer than policy allows", nil, reread(func(r *gate.Request) { r.NotAfter = r.NotAfter.Add(30 * time.Hour) }), "window-long"},
		{"a deletion sooner", destroying, reread(func(r *gate.Request) { r.DeleteNotBefore = r.DeleteNotBefore.Add(-time.Minute) }), "not-issued"},
		{"a deletion later", destroying, reread(func(r *gate.Request) { r.DeleteNotAfter = r.DeleteNotAfter.Add(time.Minute) }), "not-issued"},
		{"a deletion for a rollback", nil, reread(func(r *gate.Request) {
			r.DeleteNotBefore, r.DeleteNotAfter = r.NotBefore, r.NotAfter
		}), "not-issued"},
		{"a journal of another history", nil, reread(func(r *gate.Request) { r.Journal.Hash = other }), "not-issued"},
		{"another name", nil, line("name", "harmless"), "not-issued"},
	}
}

func destroying(f *forging) { f.kind = plugin.Destroy }

// forgedSignatures: what was handed in as the signature is none for this.
func forgedSignatures() []forgery {
	in := func(namespace string) func(*forging) {
		return func(f *forging) {
			f.sigs = []ledger.Signature{{Principal: alice, Armored: f.p.sign(alice, namespace, f.text)}}
		}
	}
	armor := func(change func(string) string) func(*forging) {
		return func(f *forging) { f.sigs[0].Armored = change(f.sigs[0].Armored) }
	}
	return []forgery{
		{"unsigned", nil, func(f *forging) { f.sigs = nil }, "unsigned"},
		{"namespace of git", nil, in("git"), "signature-namespace"},
		{"namespace of desired sets", nil, in(gate.DesiredNamespace), "signature-namespace"},
		{"signature of another text", nil, func(f *forging) { f.sigs = f.p.signed(strings.Replace(f.text, "lxc/105", "lxc/106", 1), alice) }, "signature-bad"},
		{"signature cut off", nil, armor(func(s string) string { return s[:len(s)/2] }), "signature-armor"},
		{"signature with CRLF", nil, armor(func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }), "signature-crlf"},
		{"words after the signature", nil, armor(func(s string) string { return s + "regards\n" }), "signature-junk"},
		{"no signature at all in it", nil, armor(func(string) string { return "yes\n" }), "signature-armor"},
		{"seventeen signatures", nil, func(f *forging) { f.sigs = slices.Repeat(f.sigs, 17) }, "too-many-signatures"},
		{"a good one and a bad one", nil, func(f *forging) {
			f.sigs = append(f.sigs, ledger.Signature{Principal: bob, Armored: f.p.sign("mallory", gate.ApprovalNamespace, f.text)})
		}, "signer-unknown"},
	}
}

// forgedSigners: the key, or who has it, does not count.
func forgedSigners() []forgery {
	allowed := func(change func(f *forging) string) func(*forging) {
		return func(f *forging) {
			was := f.p.allowed
			f.p.allowed = change(f)
			f.after = func() { f.p.allowed = was }
		}
	}
	revoked := func(change func(f *forging) string) func(*forging) {
		return func(f *forging) {
			was := f.p.revoked
			f.p.revoked = change(f)
			f.after = func() { f.p.revoked = was }
		}
	}
	option := func(o string) func(*forging) {
		return allowed(func(f *forging) string { return f.p.line(alice, o) + f.p.line(bob, "") })
	}
	year := "19990101000000Z:19991231000000Z"
	return []forgery{
		{"a key that nobody listed", nil, func(f *forging) { f.sigs = f.p.signed(f.text, "mallory") }, "signer-unknown"},
		{"mallory's key under alice's name", nil, func(f *forging) {
			f.sigs = []ledger.Signature{{Principal: alice, Armored: f.p.sign("mallory", gate.ApprovalNamespace, f.text)}}
		}, "signer-unknown"},
		{"bob's key under alice's name", nil, func(f *forging) {
			f.sigs = f.p.signed(f.text, bob)
			f.sigs[0].Principal = alice
		}, "signer-unknown"},
		{"a name with a wildcard", nil, func(f *forging) { f.sigs[0].Principal = "*" }, "principal"},
		{"an RSA key of 1024 bits", nil, func(f *forging) {
			f.sigs = []ledger.Signature{{Principal: alice, Armored: f.p.sign("small", gate.ApprovalNamespace, f.text)}}
		}, "key-short"},
		{"revoked key", nil, revoked(func(f *forging) string { return f.p.pub(alice) }), "signer-revoked"},
		{"revoked_keys in binary", nil, revoked(func(*forging) string { return "SSHKRL\n\x00" }), "revoked-krl"},
		{"revoked_keys malformed", nil, revoked(func(*forging) string { return "ssh-ed25519 AAAA\n" }), "revoked-file"},
		{"revoked_keys missing", nil, func(f *forging) {
			if err := os.WriteFile(f.p.file("allowed_signers"), []byte(f.p.allowed), 0o600); err != nil {
				f.t.Fatal(err)
			}
			_, err := signers.Files{Allowed: f.p.file("allowed_signers"), Revoked: f.p.file("none"), Owners: []uint32{uint32(os.Getuid())}}.Load()
			if err == nil || !strings.Contains(err.Error(), "revoked_keys") {
				f.t.Errorf("a missing revoked_keys: %v", err)
			}
			f.p.broken = err
			f.after = func() { f.p.broken = nil }
		}, "signers"},
		{"allowed_signers malformed", nil, allowed(func(f *forging) string { return f.p.allowed + "mallory\n" }), "signers-file"},
		{"allowed_signers empty", nil, allowed(func(*forging) string { return "" }), "signer-unknown"},
		{"a key for git only", nil, option(`namespaces="git"`), "signer-namespace"},
		{"a key for desired sets only", nil, option(`namespaces="felhom-desired-v1"`), "signer-namespace"},
		{"a key whose time is over", nil, option(`valid-before="19991231"`), "signer-expired"},
		{"a key whose time has not come", nil, option(`valid-after="20000102"`), "signer-not-yet"},
		{"certificate whose time is over", allowCA, byCert("-n", alice, "-V", year), "certificate-expired"},
		{"certificate whose time has not come", allowCA, byCert("-n", alice, "-V", "20000102000000Z:20010101000000Z"), "certificate-not-yet"},
		{"certificate of another person", allowCA, byCert("-n", bob, "-V", "19990101000000Z:20010101000000Z"), "certificate-principal"},
		{"certificate of a host", allowCA, byCert("-h", "-n", alice, "-V", "19990101000000Z:20010101000000Z"), "certificate-kind"},
		{"certificate of nobody", allowCA, byCert("-V", "19990101000000Z:20010101000000Z"), "certificate-without-principal"},
		{"certificate with a critical option", allowCA, byCert("-n", alice, "-V", "19990101000000Z:20010101000000Z", "-O", "source-address=::1"), "certificate-option"},
		{"certificate of an unknown authority", allowCA, func(f *forging) {
			f.signWithCert(f.certify("wrong-ca", "-n", alice, "-V", "19990101000000Z:20010101000000Z"))
		}, "signer-unknown"},
		{"certificate of a revoked authority", allowCA, func(f *forging) {
			byCert("-n", alice, "-V", "19990101000000Z:20010101000000Z")(f)
			revoked(func(f *forging) string { return f.p.pub("ca") })(f)
		}, "authority-revoked"},
	}
}

// forgedPolicies: good signatures, but not those that policy wants.
func forgedPolicies() []forgery {
	two := func(f *forging) { f.rule.Threshold, f.good = 2, []string{alice, bob} }
	hardware := func(pin bool) func(*forging) {
		return func(f *forging) {
			f.hw = gatetest.NewSecurityKey(f.t)
			f.rule.SecurityKey, f.rule.PIN = true, pin
			f.p.allowed += alice + " " + f.hw.Line()
		}
	}
	flags := func(b byte) func(*forging) {
		return func(f *forging) { f.sigs[0].Armored = f.hw.Sign(f.text, gate.ApprovalNamespace, b) }
	}
	return []forgery{
		{"one of two", two, func(f *forging) { f.sigs = f.sigs[:1] }, "threshold"},
		{"one key twice", two, func(f *forging) { f.sigs[1] = f.sigs[0] }, "same-key"},
		{"one key under two names", two, func(f *forging) {
			was := f.p.allowed
			f.p.allowed += bob + " " + f.p.pub(alice)
			f.after = func() { f.p.allowed = was }
			f.sigs[1] = ledger.Signature{Principal: bob, Armored: f.sigs[0].Armored}
		}, "same-key"},
		{"one person with two keys", func(f *forging) {
			two(f)
			f.p.allowed += alice + " " + f.p.pub("alice2")
		}, func(f *forging) {
			f.sigs[1] = ledger.Signature{Principal: alice, Armored: f.p.sign("alice2", gate.ApprovalNamespace, f.text)}
		}, "same-person"},
		{
			"the asker signs under four eyes", func(f *forging) { f.rule.FourEyes, f.as, f.good = true, alice, []string{bob} },
			func(f *forging) { f.sigs = f.p.signed(f.text, alice) }, "asker",
		},
		{"no security key", hardware(false), func(f *forging) { f.sigs = f.p.signed(f.text, alice) }, "no-security-key"},
		{"a security key that was not touched", hardware(false), flags(0), "no-touch"},
		{"a PIN without a touch", hardware(true), flags(gatetest.PIN), "no-touch"},
		{"a touch without a PIN", hardware(true), flags(gatetest.Touched), "no-pin"},
	}
}

// forgedTimes: right, but not now.
func forgedTimes() []forgery {
	return []forgery{
		{"expired one second ago", nil, func(f *forging) {
			r, _ := gate.ParseRequest([]byte(f.text))
			time.Sleep(time.Until(r.NotAfter.Add(time.Second)))
		}, "expired"},
		{"not valid yet", nil, reread(func(r *gate.Request) {
			r.NotBefore, r.NotAfter = r.NotBefore.Add(20*time.Minute), r.NotAfter.Add(20*time.Minute)
		}), "not-yet"},
		{"clock not synchronised", nil, noClock, "clock"},
		{"the request before the present one", nil, func(f *forging) {
			time.Sleep(2 * time.Hour)
			if err := f.rig.approve(f.p, f.o, alice); err == nil {
				f.t.Error("an expired request was taken")
			}
			if f.rig.op(f.o.ID).Request == f.text {
				f.t.Error("there is no new request")
			}
		}, "expired"},
	}
}

// forgedStates: the op, the guest or the journal are not any more what they
// were when it was signed.
func forgedStates() []forgery {
	return []forgery{
		{"op rejected meanwhile", nil, func(f *forging) {
			if err := f.eng.Reject(f.t.Context(), f.o.ID, "bob"); err != nil {
				f.t.Error(err)
			}
		}, "not-waiting"},
		{"op done already", nil, func(f *forging) {
			if err := f.rig.approve(f.p, f.o, alice); err != nil {
				f.t.Error(err)
			}
		}, "nonce-used"},
		{"nonce used before a crash", nil, crashedAfterSending, "nonce-used"},
		{"guest made anew and accepted", nil, func(f *forging) {
			remake(f)
			after(time.Minute)
			if err := f.eng.Accept(f.t.Context(), 105, "bob"); err != nil {
				f.t.Error(err)
			}
		}, "other-incarnation"},
		{"guest made anew", nil, func(f *forging) {
			remake(f)
			f.after = func() {
				if err := f.eng.Accept(f.t.Context(), 105, "bob"); err != nil {
					f.t.Error(err)
				}
			}
		}, "op: another guest has this VMID"},
		{"address changed", nil, func(f *forging) {
			changed105(func(g *plugintest.Guest) {
				g.Config["net0"] = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:06,type=veth"
			})(f)
			f.after = func() { changed105(func(g *plugintest.Guest) { g.Config["net0"] = doomed["net0"] })(f) }
		}, "op: not surely the same guest"},
		{"a disk more", nil, changed105(func(g *plugintest.Guest) { g.Config["mp0"] = "local:105/vm-105-disk-1.raw,mp=/d,size=1G" }), "other-plan"},
		{"a disk of another size", nil, changed105(func(g *plugintest.Guest) { g.Config["rootfs"] = "local:105/vm-105-disk-0.raw,size=16G" }), "other-plan"},
		{"a snapshot more", destroying, changed105(func(g *plugintest.Guest) {
			g.Snapshots = append(g.Snapshots, plugin.SnapshotInfo{Name: "after", Time: time.Now()})
		}), "other-plan"},
		{"a job more", destroying, changed105(func(g *plugintest.Guest) { g.Jobs = []string{"backup job nightly"} }), "other-plan"},
		{"the snapshot taken anew under its name", nil, changed105(func(g *plugintest.Guest) { g.Snapshots[0].Time = time.Now() }), "other-plan"},
		{"the snapshot is gone", nil, func(f *forging) {
			changed105(func(g *plugintest.Guest) { g.Snapshots = nil })(f)
			f.after = func() {
				changed105(func(g *plugintest.Guest) { g.Snapshots = []plugin.SnapshotInfo{{Name: "before", Time: time.Now()}} })(f)
			}
		}, "op: no snapshot"},
		{"guest on another node", nil, func(f *forging) {
			changed105(func(g *plugintest.Guest) { g.Presence = plugin.Elsewhere })(f)
			f.after = func() { changed105(func(g *plugintest.Guest) { g.Presence = plugin.Here })(f) }
		}, "op: it is not here"},
	}
}

// remake is what another does to the guest: the config is the same to the byte.
func remake(f *forging) {
	for _, what := range []string{"vzdestroy", "vzcreate"} {
		f.world.AddTask(105, plugin.Task{UPID: "UPID:pve1:" + what, Type: what, ID: "105", User: "root@pam", Started: time.Now().Add(time.Second), Ended: time.Now().Add(2 * time.Second), Status: "OK"})
	}
	time.Sleep(3 * time.Second)
}

// crashedAfterSending: the agent died when the rollback was just sent. Its nonce is in the
// intent, and in no other record.
func crashedAfterSending(f *forging) {
	f.always(plugintest.Behaviour{Lose: true, Task: time.Second})
	f.rig.t.Log(f.rig.approveNoWait(f.p, f.o, alice))
	f.stop()
	f.always(plugintest.Behaviour{})
	f.start(Enforce)
	if err := f.eng.Reload(f.settings()); err != nil {
		f.t.Error(err)
	}
	after(2 * time.Minute)
	if got := f.world.Effects(f.o.ID); got != 1 {
		f.t.Errorf("the rollback took effect %d times", got)
	}
}

// permitText is a permit for host pve1 for the next hour.
func permitText(r *rig, change func(p *gate.Permit)) string {
	now := time.Now().UTC().Truncate(time.Second)
	p := &gate.Permit{
		ID: "test", Asker: "operator:uid-0", Host: "pve1", Actions: []string{"rollback", "delete_snapshot"}, Count: 2,
		Scopes: []gate.Scope{{First: guest.VMID(105), Last: guest.VMID(105)}}, NotBefore: now, NotAfter: now.Add(24 * time.Hour),
	}
	change(p)
	text, err := p.Text()
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}
