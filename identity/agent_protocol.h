// What libinlay.so and `inlay` say to the agent on its Unix socket, SOCK_STREAM. Both ends are of
// one machine: integers in its own byte order. The agent's clients speak first; a first byte other
// than kAgentMagic's is the SPIFFE Workload API (an HTTP/2 preface), which has the same socket.
//
// A frame is a header and `length` bytes. The agent answers each request with one frame that has
// the same `request` number; frames numbered 0 are its own: news after an attach. Whoever sends
// what is not described here is cut off.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace inlay::identity {

inline constexpr std::uint32_t kAgentMagic = 0x594c4e49;  // "INLY", little-endian
inline constexpr std::uint16_t kAgentVersion = 1;
inline constexpr std::size_t kMaxAgentRequest = 4096;        // bytes after the header, to the agent
inline constexpr std::size_t kMaxAgentAnswer = 1024 * 1024;  // and from it

// Where an agent is looked for when nobody says: $XDG_RUNTIME_DIR/inlay/agent.sock of a user's own
// agent after that.
inline constexpr char kAgentSocket[] = "/run/inlay/agent.sock";

enum class AgentFrame : std::uint16_t {
  // Requests.
  attach = 1,  // AttachRequest; answered by snapshot, unchanged or refused; news follow
  sign = 2,    // SignRequest and the input of the signature; signature or refused
  probe = 3,  // the absolute path of an executable: would the caller, were it that? text or refused
  status = 4,  // nothing; text: JSON, of what the caller may know
  test = 5,    // pid as std::uint32_t; text: JSON, which entries match that process and why not
  // Answers.
  snapshot = 65,   // SnapshotAnswer, and one sealed memfd in SCM_RIGHTS (agent_snapshot.h)
  unchanged = 66,  // nothing: the caller's generation is the newest
  signature = 67,  // the signature as TLS has it
  text = 68,       // UTF-8
  refused = 69,    // Refusal and one line of text: what is wrong and what to do
};

struct AgentHeader {
  std::uint32_t magic = kAgentMagic;
  std::uint16_t version = kAgentVersion;
  AgentFrame frame{};
  std::uint32_t length = 0;
  std::uint32_t request = 0;
};
static_assert(sizeof(AgentHeader) == 16);

// Of what the caller has already; 0 and 0 for nothing. An epoch is one life of the agent.
struct AttachRequest {
  std::uint64_t epoch = 0;
  std::uint64_t generation = 0;
  char version[16] = {};  // of the caller's inlay, for the log
};

struct SnapshotAnswer {
  std::uint64_t epoch = 0;
  std::uint64_t generation = 0;  // grows with every change of what this caller gets
};

struct SignRequest {
  std::array<std::uint8_t, 32> key{};  // the leaf's public_key_digest() (certificate.h)
  std::uint16_t scheme = 0;            // SignatureScheme (RFC 8446 §4.2.3)
  std::uint16_t reserved = 0;
  std::uint32_t hash_length = 0;  // of the suite's transcript hash: 32 or 48
};

// Names are a contract (audit lines, metrics); new ones at the end only.
#define INLAY_AGENT_REFUSALS(X)                                                                 \
  X(malformed, "malformed", "the request is not of the protocol")                               \
  X(no_entry, "no-entry", "no entry matches this process")                                      \
  X(several_entries, "several-entries", "entries for different IDs match this process")         \
  X(no_svid, "no-svid", "there is no valid SVID for this process now")                          \
  X(unknown_key, "unknown-key", "no SVID of this process has that key")                         \
  X(not_a_handshake, "not-a-handshake", "what is to be signed is no TLS 1.3 CertificateVerify") \
  X(rate_limited, "rate-limited", "too many requests from this process")                        \
  X(not_permitted, "not-permitted", "only root and the agent's own user may ask that")          \
  X(process_gone, "process-gone", "the process has ended, or executed another program")         \
  X(traced, "traced", "the process is being traced, which its entry does not allow")            \
  X(internal, "internal", "the agent could not do it")

enum class AgentRefusal : std::uint16_t {
#define INLAY_AGENT_REFUSAL_ENUM(id, name, sentence) id,
  INLAY_AGENT_REFUSALS(INLAY_AGENT_REFUSAL_ENUM)
#undef INLAY_AGENT_REFUSAL_ENUM
};

struct RefusedAnswer {
  AgentRefusal refusal{};
  std::uint16_t reserved = 0;
};

// TLS 1.3 CertificateVerify (RFC 8446 §4.4.3): 64 spaces, one of these with its NUL, the hash.
inline constexpr std::size_t kSignaturePadding = 64;
inline constexpr char kServerContext[] = "TLS 1.3, server CertificateVerify";
inline constexpr char kClientContext[] = "TLS 1.3, client CertificateVerify";
static_assert(sizeof(kServerContext) == sizeof(kClientContext));

}  // namespace inlay::identity
