// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// keygen is the real ssh-keygen in a directory of its own.
type keygen struct {
	t    testing.TB
	path string
	dir  string
	env  []string
}

func newKeygen(t testing.TB) *keygen {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil {
		if testing.Short() {
			t.Skip("ssh-keygen is missing")
		}
		t.Fatal("ssh-keygen is missing: install openssh-client, or run the tests with -short")
	}
	return &keygen{t: t, path: path, dir: t.TempDir()}
}

func (k *keygen) try(stdin []byte, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.path, args...)
	cmd.Dir, cmd.Stdin, cmd.Env = k.dir, bytes.NewReader(stdin), append(os.Environ(), k.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (k *keygen) run(args ...string) {
	k.t.Helper()
	if out, err := k.try(nil, args...); err != nil {
		k.t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
}

func (k *keygen) write(name string, data []byte) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), data, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keygen) read(name string) []byte {
	k.t.Helper()
	b, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil {
		k.t.Fatal(err)
	}
	return b
}

// sign has ssh-keygen sign msg with the key (or certificate) file.
func (k *keygen) sign(file, namespace string, msg []byte, options ...string) []byte {
	k.t.Helper()
	k.write("msg", msg)
	os.Remove(filepath.Join(k.dir, "msg.sig"))
	args := append([]string{"-Y", "sign", "-q", "-f", file, "-n", namespace}, options...)
	k.run(append(args, "msg")...)
	return k.read("msg.sig")
}

// verify is ssh-keygen's verdict at testNow.
func (k *keygen) verify(signers, principal, namespace string, armored, msg []byte) error {
	k.write("signers", []byte(signers))
	k.write("sig", armored)
	out, err := k.try(msg, "-Y", "verify", "-f", "signers", "-I", principal, "-n", namespace, "-s", "sig",
		"-Overify-time="+testNow.Format("20060102150405")+"Z")
	if err != nil {
		k.t.Logf("ssh-keygen refuses: %s", strings.TrimSpace(out))
	}
	return err
}

func requestText(t testing.TB) []byte {
	t.Helper()
	text, err := testRequest().Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const alice = "alice@example.com"

var keyTypes = []struct{ name, kind, bits string }{
	{"ed25519", "ed25519", ""},
	{"ecdsa-256", "ecdsa", "256"},
	{"ecdsa-384", "ecdsa", "384"},
	{"ecdsa-521", "ecdsa", "521"},
	{"rsa-3072", "rsa", "3072"},
}

func (k *keygen) generate(name, kind, bits string) {
	k.t.Helper()
	args := []string{"-q", "-t", kind, "-N", "", "-C", "comment of " + name, "-f", name}
	if bits != "" {
		args = append(args, "-b", bits)
	}
	k.run(args...)
}

// loaded is a private key that ssh-keygen made, for signing in Go.
func (k *keygen) loaded(name string) *testKey {
	k.t.Helper()
	raw, err := ssh.ParseRawPrivateKey(k.read(name))
	if err != nil {
		k.t.Fatal(err)
	}
	if p, ok := raw.(interface{ Public() crypto.PublicKey }); ok {
		key := fromRaw(k.t, p.(crypto.Signer))
		if key.pub.Type() == ssh.KeyAlgoRSA {
			key.alg = ssh.KeyAlgoRSASHA256
		}
		return key
	}
	k.t.Fatalf("%s: %T", name, raw)
	return nil
}

// TestKeygen: for each key type ssh-keygen makes without hardware, it signs
// and we verify, we sign and it verifies, with the key and with a certificate
// of ssh-keygen -s, and neither takes the other's signature for another text
// or purpose.
func TestKeygen(t *testing.T) {
	t.Parallel()
	for _, kt := range keyTypes {
		t.Run(kt.name, func(t *testing.T) {
			t.Parallel()
			k := newKeygen(t)
			k.generate("key", kt.kind, kt.bits)
			t.Run("key", func(t *testing.T) { keyBothWays(t, k) })
			t.Run("certificate", func(t *testing.T) { certBothWays(t, k) })
		})
	}
}

func keyBothWays(t *testing.T, k *keygen) {
	signers := alice + " namespaces=\"felhom-approval-v1\" " + string(k.read("key.pub"))
	for _, hash := range []string{"sha512", "sha256"} {
		bothWays(t, k, signers, "key", k.loaded("key"), requestText(t), hash)
	}
}

func certBothWays(t *testing.T, k *keygen) {
	k.generate("ca", "ed25519", "")
	k.run("-q", "-s", "ca", "-I", "id of alice", "-z", "42", "-n", alice+",other", "-V", "20261129120000Z:20261129180000Z", "key.pub")
	signers := "*@example.com cert-authority " + string(k.read("ca.pub"))
	pub, _, _, _, err := ssh.ParseAuthorizedKey(k.read("key-cert.pub"))
	if err != nil {
		t.Fatal(err)
	}
	text := requestText(t)
	bothWays(t, k, signers, "key-cert.pub", k.loaded("key").withCert(pub.(*ssh.Certificate)), text, "sha512")
	armored := k.sign("key-cert.pub", ApprovalNamespace, text)
	check := func(principal string, now time.Time) (Signer, error) {
		return VerifyOne(text, ApprovalNamespace, Signed{Principal: principal, Armored: armored}, now, mustSigners(t, signers), nil)
	}
	if got, err := check(alice, testNow); err != nil || got.KeyID != "id of alice" || got.Serial != 42 {
		t.Errorf("signer %+v, %v", got, err)
	}
	_, err = check("mallory@example.com", testNow)
	wantReason(t, err, ErrCertPrincipal)
	_, err = check(alice, testNow.Add(3*time.Hour))
	wantReason(t, err, ErrCertLate)
}

func bothWays(t *testing.T, k *keygen, signers, file string, ours *testKey, text []byte, hash string) {
	t.Helper()
	theirs := k.sign(file, ApprovalNamespace, text, "-Ohashalg="+hash)
	mine := ours.sshsigAs(text, sigForm{namespace: ApprovalNamespace, hash: hash})
	for name, armored := range map[string][]byte{"made by ssh-keygen": theirs, "made by us": mine} {
		if err := k.verify(signers, alice, ApprovalNamespace, armored, text); err != nil {
			t.Errorf("%s, %s: ssh-keygen refuses it", name, hash)
		}
		got, err := VerifyOne(text, ApprovalNamespace, Signed{Armored: armored}, testNow, mustSigners(t, signers), nil)
		if err != nil || got.Principal != alice {
			t.Errorf("%s, %s: we find %+v, %v", name, hash, got, err)
		}
		_, err = VerifyOne(append(text, ' '), ApprovalNamespace, Signed{Armored: armored}, testNow, mustSigners(t, signers), nil)
		wantReason(t, err, ErrBadSignature)
		_, err = VerifyOne(text, "git", Signed{Armored: armored}, testNow, mustSigners(t, signers), nil)
		wantReason(t, err, ErrNamespace)
	}
}

// TestRSAAuthorities: an RSA authority's signature by SHA-2 counts, by SHA-1
// it does not.
func TestRSAAuthorities(t *testing.T) {
	t.Parallel()
	k := newKeygen(t)
	k.generate("ca", "rsa", "2048")
	k.generate("key", "ed25519", "")
	signers := alice + " cert-authority " + string(k.read("ca.pub"))
	text := requestText(t)
	for alg, want := range map[string]Reason{"rsa-sha2-512": "", "rsa-sha2-256": "", "ssh-rsa": ErrCertSignature} {
		k.run("-q", "-s", "ca", "-t", alg, "-I", "id", "-n", alice, "key.pub")
		armored := k.sign("key-cert.pub", ApprovalNamespace, text)
		_, err := VerifyOne(text, ApprovalNamespace, Signed{Armored: armored}, testNow, mustSigners(t, signers), nil)
		wantReason(t, err, want)
	}
}

// TestSecurityKeys: signatures that FIDO tokens would make, made in software,
// with touch, with touch and PIN, and without touch; ssh-keygen reads the same
// blobs, so the vectors are right.
func TestSecurityKeys(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			key, text := newSK(t, kind), requestText(t)
			ca := newEd25519(t)
			signers := alice + " " + key.line() + "\nbob@example.com cert-authority " + ca.line() + "\n"
			for flags, want := range map[byte]Reason{flagUP: "", flagUP | flagUV: "", flagUV: ErrTouch, 0: ErrTouch} {
				signing := key.with(flags, "")
				armored := signing.sshsig(text, ApprovalNamespace)
				got, err := VerifyOne(text, ApprovalNamespace, Signed{Armored: armored}, testNow, mustSigners(t, signers), nil)
				wantReason(t, err, want)
				if want == "" && (!got.SecurityKey || got.PIN != (flags&flagUV != 0)) {
					t.Errorf("flags %#x: signer %+v", flags, got)
				}
				if err := newKeygen(t).verify(signers, alice, ApprovalNamespace, armored, text); (err == nil) != (want == "") {
					t.Logf("flags %#x: ssh-keygen says %v", flags, err)
					if want == "" {
						t.Error("ssh-keygen refuses the vector")
					}
				}
				cert := certify(t, ca, signing, nil, "bob@example.com")
				_, err = VerifyOne(text, ApprovalNamespace, Signed{Armored: cert.sshsig(text, ApprovalNamespace)}, testNow, mustSigners(t, signers), nil)
				wantReason(t, err, want)
			}
		})
	}
}

// TestLibraryRefusesWithoutTouch proves that golang.org/x/crypto/ssh is new
// enough (v0.52) to refuse a signature without touch by itself: our own check
// is asked first and would hide it.
func TestLibraryRefusesWithoutTouch(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256} {
		key, text := newSK(t, kind), requestText(t)
		for flags, good := range map[byte]bool{flagUP: true, flagUV: false, 0: false} {
			sig, err := ParseSignature(key.with(flags, "").sshsig(text, ApprovalNamespace))
			if err != nil {
				t.Fatal(err)
			}
			if err := key.pub.Verify(sig.signedData(text), sig.sig); (err == nil) != good {
				t.Errorf("%s, flags %#x: %v", kind, flags, err)
			}
			if err := checkTouch(key.pub, sig.sig); (err == nil) != good {
				t.Errorf("%s, flags %#x: our own check says %v", kind, flags, err)
			}
		}
	}
}

// TestRevokedKeysAsKeygenReadsThem: the same revoked_keys file refuses the
// same signature on both sides.
func TestRevokedKeysAsKeygenReadsThem(t *testing.T) {
	t.Parallel()
	ca, key, other := newEd25519(t), newECDSA(t, elliptic.P256()), newEd25519(t)
	cert := certify(t, ca, key, nil, alice)
	text := requestText(t)
	signers := alice + " " + key.line() + "\n" + alice + " cert-authority " + ca.line() + "\n"
	for _, c := range []struct {
		name, file string
		signer     *testKey
		want       Reason
	}{
		{"another key", "# gone\n\n" + other.line() + " stolen\n", key, ""},
		{"the key", other.line() + "\n  " + key.line() + "\n", key, ErrRevoked},
		{"the key of a certificate", key.line() + "\n", cert, ErrRevoked},
		{"the authority", ca.line() + "\n", cert, ErrCARevoked},
		{"a malformed line", key.line()[:60] + "\n", key, ErrRevokedFile},
	} {
		k := newKeygen(t)
		armored := c.signer.sshsig(text, ApprovalNamespace)
		k.write("signers", []byte(signers))
		k.write("sig", armored)
		k.write("revoked", []byte(c.file))
		_, theirs := k.try(text, "-Y", "verify", "-f", "signers", "-r", "revoked", "-I", alice, "-n", ApprovalNamespace, "-s", "sig",
			"-Overify-time="+testNow.Format("20060102150405")+"Z")
		if (theirs == nil) != (c.want == "") {
			t.Errorf("%s: ssh-keygen says %v", c.name, theirs)
		}
		revoked, err := ParseRevoked("revoked_keys", []byte(c.file))
		if err == nil {
			_, err = VerifyOne(text, ApprovalNamespace, Signed{Principal: alice, Armored: armored}, testNow, mustSigners(t, signers), revoked)
		}
		wantReason(t, err, c.want)
	}
}

// TestBinaryRevocationListIsRefused: a real one, of ssh-keygen -k.
func TestBinaryRevocationListIsRefused(t *testing.T) {
	t.Parallel()
	k := newKeygen(t)
	k.generate("key", "ed25519", "")
	k.run("-q", "-k", "-f", "krl", "key.pub")
	_, err := ParseRevoked("revoked_keys", k.read("krl"))
	wantReason(t, err, ErrKRL)
}
