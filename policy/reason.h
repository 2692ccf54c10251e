// Why a connection was refused, cut, or let through in the clear: the one enum that the log, the
// metrics, errno and `inlay policy explain` share. Names are a contract (scripts match on them);
// values are stored in log files and shared memory, so new ones are added at the end only.
#pragma once

#include <cstdint>
#include <string_view>

namespace inlay::policy {

// X(enumerator, "name", "sentence a person reads")
#define INLAY_REASONS(X)                                                                           \
  X(none, "none", "no reason recorded")                                                            \
  X(allowed, "allowed", "the peer's identity is allowed by the rule")                              \
  X(plaintext_rule, "plaintext-rule", "a rule lets this connection through in the clear")          \
  X(plaintext_default, "plaintext-default", "the default lets this connection through in the clear")\
  X(denied_by_rule, "denied-by-rule", "a deny rule matches this connection")                       \
  X(denied_by_default, "denied-by-default", "no rule names this connection and the default is deny")\
  X(caller_not_matched, "caller-not-matched",                                                      \
    "rules name this destination, but none matches the caller or the name")                        \
  X(peer_not_allowed, "peer-not-allowed", "the peer's SPIFFE ID is not in the rule's allow list")  \
  X(peer_denied, "peer-denied", "the peer's SPIFFE ID is in the rule's deny list")                 \
  X(policy_unreadable, "policy-unreadable", "the configuration cannot be read or is invalid")      \
  X(identity_unreadable, "identity-unreadable", "this workload's SVID, key or bundle cannot be used")\
  X(svid_expired, "svid-expired", "this workload's own SVID has expired")                          \
  X(handshake_timeout, "handshake-timeout", "the peer did not finish the handshake in time")       \
  X(handshake_waiting, "handshake-waiting", "no byte of the handshake has come from the peer yet") \
  X(half_open_limit, "half-open-limit", "too many unfinished inbound handshakes")                  \
  X(peer_not_tls, "peer-not-tls", "the peer does not speak TLS")                                   \
  X(tls_version, "tls-version", "the peer does not offer TLS 1.3")                                 \
  X(protocol_violation, "protocol-violation", "the peer broke the TLS protocol")                   \
  X(alpn_mismatch, "alpn-mismatch", "the peer offers only application protocols inlay does not speak")\
  X(peer_closed_in_handshake, "peer-closed-in-handshake", "the peer closed before the handshake ended")\
  X(refused_by_peer, "refused-by-peer", "the peer refused this workload with a TLS alert")         \
  X(no_peer_certificate, "no-peer-certificate", "the peer presented no certificate")               \
  X(certificate_malformed, "certificate-malformed", "the peer's certificate cannot be parsed")     \
  X(certificate_not_svid, "certificate-not-svid", "the peer's certificate is not an X.509-SVID")   \
  X(certificate_expired, "certificate-expired", "the peer's certificate has expired")              \
  X(certificate_not_yet_valid, "certificate-not-yet-valid", "the peer's certificate is not valid yet")\
  X(certificate_untrusted, "certificate-untrusted",                                                \
    "the peer's certificate does not chain to the bundle of its trust domain")                     \
  X(certificate_weak, "certificate-weak", "the peer's certificate uses a key or signature too weak")\
  X(trust_domain_unknown, "trust-domain-unknown", "no bundle is configured for the peer's trust domain")\
  X(key_proof_failed, "key-proof-failed", "the peer did not prove it holds its certificate's key") \
  X(record_authentication, "record-authentication", "a record failed authentication")              \
  X(record_overflow, "record-overflow", "the peer sent a record longer than TLS allows")           \
  X(truncated, "truncated", "the connection ended inside a record")                                \
  X(bare_fin, "bare-fin", "the connection ended without close_notify")                             \
  X(closed, "closed", "the connection ended normally")                                             \
  X(reset_by_peer, "reset-by-peer", "the peer reset the connection")                               \
  X(unsupported_call, "unsupported-call", "the program used a call inlay does not support on a managed socket")\
  X(unsupported_socket, "unsupported-socket", "the socket is of a kind inlay does not protect")    \
  X(stdio_unprotected, "stdio-unprotected", "a stdio stream on this socket could not be protected")\
  X(inherited_unknown, "inherited-unknown", "a connected socket was inherited without its session")\
  X(not_shared, "not-shared", "the session belongs to a process that does not share it with this one")\
  X(poisoned, "poisoned", "a process died or jumped away while it was changing the session")       \
  X(sandboxed, "sandboxed", "the program's seccomp filter leaves inlay no way to protect the socket")\
  X(out_of_resources, "out-of-resources", "inlay ran out of memory, descriptors or session slots") \
  X(internal_error, "internal-error", "inlay met a state it does not know")                        \
  X(exec_unprotected, "exec-unprotected", "a program was started that the preload cannot reach")   \
  X(policy_changed, "policy-changed", "a new policy no longer allows this open connection")        \
  X(agent_unavailable, "agent-unavailable", "the agent that holds this workload's key does not answer")\
  X(agent_refused, "agent-refused", "the agent refused what this workload needs of it")             \
  X(certificate_revoked, "certificate-revoked", "the peer's certificate has been revoked")         \
  X(crl_stale, "crl-stale", "the revocation list for the peer's certificate is out of date")       \
  X(authority_removed, "authority-removed", "the authority behind the peer's identity is no longer trusted")

enum class Reason : std::uint16_t {
#define INLAY_REASON_ENUM(id, name, sentence) id,
  INLAY_REASONS(INLAY_REASON_ENUM)
#undef INLAY_REASON_ENUM
};

#define INLAY_REASON_COUNT(id, name, sentence) +1
inline constexpr std::size_t kReasonCount = INLAY_REASONS(INLAY_REASON_COUNT);
#undef INLAY_REASON_COUNT

// The stable kebab-case name, e.g. "peer-not-allowed". Unknown values give "unknown".
std::string_view name(Reason reason) noexcept;
// One sentence for a person, without a final dot. Unknown values give "unknown reason".
std::string_view sentence(Reason reason) noexcept;

}  // namespace inlay::policy
