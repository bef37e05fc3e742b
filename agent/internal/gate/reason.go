// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

// Reason is why something was refused: a stable code for the journal, and an
// error that errors.Is knows. Error gives its sentence.
type Reason string

// Error is the reason as a sentence for the operator.
func (r Reason) Error() string {
	if s, ok := sentences[r]; ok {
		return s
	}
	return "refused (" + string(r) + ")"
}

// The form of a signed text.
const (
	ErrTextLong     Reason = "text-long"
	ErrTextCRLF     Reason = "text-crlf"
	ErrTextChar     Reason = "text-character"
	ErrTextCut      Reason = "text-cut"
	ErrTextTrailing Reason = "text-trailing-newline"
	ErrTextHeader   Reason = "text-header"
	ErrTextLine     Reason = "text-line"
	ErrTextUnknown  Reason = "text-unknown-line"
	ErrTextRepeated Reason = "text-repeated-line"
	ErrTextMissing  Reason = "text-missing-line"
	ErrTextOrder    Reason = "text-order"
	ErrTextValue    Reason = "text-value"
)

// The signature itself.
const (
	ErrArmor        Reason = "signature-armor"
	ErrArmorCRLF    Reason = "signature-crlf"
	ErrArmorLong    Reason = "signature-long"
	ErrArmorJunk    Reason = "signature-junk"
	ErrSigFormat    Reason = "signature-format"
	ErrSigVersion   Reason = "signature-version"
	ErrNamespace    Reason = "signature-namespace"
	ErrHash         Reason = "signature-hash"
	ErrKeyType      Reason = "key-type"
	ErrKeyShort     Reason = "key-short"
	ErrAlgorithm    Reason = "signature-algorithm"
	ErrBadSignature Reason = "signature-bad"
	ErrTouch        Reason = "no-touch"
	ErrPIN          Reason = "no-pin"
	ErrNoHardware   Reason = "no-security-key"
)

// Who signed.
const (
	ErrPrincipal       Reason = "principal"
	ErrWhoSigned       Reason = "principal-unclear"
	ErrUnknownSigner   Reason = "signer-unknown"
	ErrSignerNamespace Reason = "signer-namespace"
	ErrSignerEarly     Reason = "signer-not-yet"
	ErrSignerLate      Reason = "signer-expired"
	ErrRevoked         Reason = "signer-revoked"
	ErrCARevoked       Reason = "authority-revoked"
	ErrCertKind        Reason = "certificate-kind"
	ErrCertEarly       Reason = "certificate-not-yet"
	ErrCertLate        Reason = "certificate-expired"
	ErrCertNobody      Reason = "certificate-without-principal"
	ErrCertPrincipal   Reason = "certificate-principal"
	ErrCertOption      Reason = "certificate-option"
	ErrCertSignature   Reason = "certificate-signature"
	ErrSignersFile     Reason = "signers-file"
	ErrRevokedFile     Reason = "revoked-file"
	ErrKRL             Reason = "revoked-krl"
)

// What the policy says.
const (
	ErrPolicy      Reason = "policy"
	ErrNoRule      Reason = "no-rule"
	ErrUnsigned    Reason = "unsigned"
	ErrTooMany     Reason = "too-many-signatures"
	ErrThreshold   Reason = "threshold"
	ErrSameKey     Reason = "same-key"
	ErrSamePerson  Reason = "same-person"
	ErrAsker       Reason = "asker"
	ErrEarly       Reason = "not-yet"
	ErrExpired     Reason = "expired"
	ErrLongWindow  Reason = "window-long"
	ErrEmptyWindow Reason = "window-empty"
)

// What is true at the moment of acting.
const (
	ErrClock            Reason = "clock"
	ErrOtherOp          Reason = "other-op"
	ErrOtherHost        Reason = "other-host"
	ErrOtherGuest       Reason = "other-guest"
	ErrOtherIncarnation Reason = "other-incarnation"
	ErrOtherAction      Reason = "other-action"
	ErrOtherPlan        Reason = "other-plan"
	ErrOtherEffects     Reason = "other-effects"
	ErrOtherAsker       Reason = "other-asker"
	ErrOtherNonce       Reason = "other-nonce"
	ErrNotIssued        Reason = "not-issued"
	ErrNonceUsed        Reason = "nonce-used"
)

// Standing permits.
const (
	ErrPermitHost    Reason = "permit-host"
	ErrPermitAction  Reason = "permit-action"
	ErrPermitScope   Reason = "permit-scope"
	ErrPermitSpent   Reason = "permit-spent"
	ErrPermitBackup  Reason = "permit-backup"
	ErrPermitRevoked Reason = "permit-revoked"
)

// Signed desired sets.
const (
	ErrIndexHost    Reason = "index-host"
	ErrIndexIssuer  Reason = "index-issuer"
	ErrIndexExpired Reason = "index-expired"
	ErrIndexOld     Reason = "index-rolled-back"
	ErrIndexTwice   Reason = "index-serial-reused"
	ErrIndexEmpty   Reason = "index-empty"
	ErrIndexNothing Reason = "index-nothing"
	ErrFileUnlisted Reason = "file-unlisted"
	ErrFileMissing  Reason = "file-missing"
	ErrFileDiffers  Reason = "file-differs"
	ErrFileTwice    Reason = "file-twice"
)

var sentences = map[Reason]string{
	ErrTextLong:     "the text is longer than the gate reads",
	ErrTextCRLF:     "the text has carriage returns; it must be signed exactly as it was issued",
	ErrTextChar:     "the text has a character that is not printable ASCII",
	ErrTextCut:      "the text does not end with a newline; its end is cut off",
	ErrTextTrailing: "the text has an extra newline at its end",
	ErrTextHeader:   "the first line does not say that this is such a text",
	ErrTextLine:     "a line is not of the form \"key: value\"",
	ErrTextUnknown:  "a line has a key that this text does not have",
	ErrTextRepeated: "a line is there twice",
	ErrTextMissing:  "a line is missing",
	ErrTextOrder:    "the lines are not in their order",
	ErrTextValue:    "a value is not in its form",

	ErrArmor:        "the signature is not in the form that ssh-keygen -Y sign writes",
	ErrArmorCRLF:    "the signature has carriage returns",
	ErrArmorLong:    "the signature is longer than the gate reads",
	ErrArmorJunk:    "there is something before or after the signature",
	ErrSigFormat:    "the signature's content is malformed",
	ErrSigVersion:   "the signature is of another version than 1",
	ErrNamespace:    "the signature was made for another purpose (namespace)",
	ErrHash:         "the signature uses a hash other than sha256 and sha512",
	ErrKeyType:      "keys of this type are not accepted",
	ErrKeyShort:     "RSA keys below 2048 bits are not accepted",
	ErrAlgorithm:    "the signature algorithm is not accepted for this key",
	ErrBadSignature: "the signature does not fit the text",
	ErrTouch:        "the security key was not touched for this signature",
	ErrPIN:          "policy wants the security key's PIN (user verification) and the signature was made without",
	ErrNoHardware:   "policy wants a security key and this is another kind of key",

	ErrPrincipal:       "the signer's name is not a name",
	ErrWhoSigned:       "allowed_signers does not tell alone who signed; name the signer",
	ErrUnknownSigner:   "allowed_signers does not list this key for this signer",
	ErrSignerNamespace: "allowed_signers does not allow this key for this purpose (namespaces)",
	ErrSignerEarly:     "allowed_signers does not allow this key yet (valid-after)",
	ErrSignerLate:      "allowed_signers does not allow this key any more (valid-before)",
	ErrRevoked:         "the key is revoked",
	ErrCARevoked:       "the authority that signed the certificate is revoked",
	ErrCertKind:        "the certificate is not a user certificate",
	ErrCertEarly:       "the certificate is not valid yet",
	ErrCertLate:        "the certificate has expired",
	ErrCertNobody:      "the certificate names no principal",
	ErrCertPrincipal:   "the certificate is for somebody else",
	ErrCertOption:      "the certificate has a critical option that the gate does not know",
	ErrCertSignature:   "the certificate's own signature is not accepted",
	ErrSignersFile:     "allowed_signers cannot be used",
	ErrRevokedFile:     "revoked_keys cannot be used",
	ErrKRL:             "revoked_keys is a binary key revocation list, which is not supported; list plain public keys",

	ErrPolicy:      "the approval policy is not usable",
	ErrNoRule:      "policy has no rule that would allow this at all",
	ErrUnsigned:    "there is no signature",
	ErrTooMany:     "there are more signatures than the gate checks",
	ErrThreshold:   "too few people signed",
	ErrSameKey:     "one key signed more than once and counts once",
	ErrSamePerson:  "one person signed more than once and counts once",
	ErrAsker:       "who asks does not count as an approver (four eyes)",
	ErrEarly:       "it is not valid yet",
	ErrExpired:     "it has expired",
	ErrLongWindow:  "it is valid for longer than policy allows",
	ErrEmptyWindow: "its end is not after its start",

	ErrClock:            "this host's clock is not synchronised",
	ErrOtherOp:          "the approval is for another operation",
	ErrOtherHost:        "the approval is for another host",
	ErrOtherGuest:       "the approval is for another guest",
	ErrOtherIncarnation: "the guest is not the one that was approved, though its VMID is the same",
	ErrOtherAction:      "the approval is for another action",
	ErrOtherPlan:        "the plan changed after the approval was asked for",
	ErrOtherEffects:     "the effects changed after the approval was asked for",
	ErrOtherAsker:       "the approval names another asker",
	ErrOtherNonce:       "the approval has another nonce than the one issued",
	ErrNotIssued:        "the signed text is not the one that was issued",
	ErrNonceUsed:        "the approval is spent; ask again",

	ErrPermitHost:    "the permit is for another host",
	ErrPermitAction:  "the permit does not cover this action",
	ErrPermitScope:   "the permit does not cover this guest",
	ErrPermitSpent:   "the permit's count is used up",
	ErrPermitBackup:  "no standing permit covers the deletion of backups",
	ErrPermitRevoked: "the permit was withdrawn",

	ErrIndexHost:    "the index is for another host",
	ErrIndexIssuer:  "the index is of another issuer",
	ErrIndexExpired: "the index has expired",
	ErrIndexOld:     "the index is older than the last one accepted",
	ErrIndexTwice:   "two different indexes have the same serial",
	ErrIndexEmpty:   "the index lists no file and does not say \"manage: nothing\"",
	ErrIndexNothing: "the index says \"manage: nothing\" and lists files",
	ErrFileUnlisted: "a file is not in the index",
	ErrFileMissing:  "a file of the index is missing",
	ErrFileDiffers:  "a file is not the one that the index lists",
	ErrFileTwice:    "a file name is there twice",
}
