// What an enrolled machine keeps: who it is, and which authority it belongs to.
//
//   FOLDER/node.pem        its key and its SVID's chain, in one file that is replaced whole; 0600
//   FOLDER/authority.json  where the authority is, the pin of its root, its trust bundle
//   FOLDER/granted.pb      what it was granted last (NodeState of enrolment.proto): a machine that
//                          starts while the authority is down goes on with that
//   FOLDER/enrolling.pem   the key of an enrolment whose answer is not in yet; 0600
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/rpc/tls_client.h"
#include "identity/svid.h"
#include "identity/trust_domain_bundle.h"

namespace inlay::identity::agent {

struct Node {
  std::string authority;  // HOST:PORT
  rpc::Pin pin{};         // of the root that was in force when it was enrolled
  TrustDomainBundle bundle;
  X509Svid svid;  // may have ended
};

// The error is one line. Files that others could change or read are refused (trusted_file.h).
tl::expected<Node, std::string> load_node(const std::string &folder, std::span<const uid_t> owners);
// Makes the folder (0700) where it is missing.
tl::expected<void, std::string> save_node(const std::string &folder, const Node &node);

// "" when there is none.
std::string load_granted(const std::string &folder, std::span<const uid_t> owners);
tl::expected<void, std::string> save_granted(const std::string &folder, std::string_view bytes);

PkeyPtr make_node_key();  // P-256
// The key to enrol with by the token of that digest: the one of the last attempt, whose answer may
// have been lost, or a new one, which is on the disk before it is used.
tl::expected<PkeyPtr, std::string> enrolling_key(const std::string &folder,
                                                 std::string_view token_digest,
                                                 std::span<const uid_t> owners);
// The answer is in.
void forget_enrolling_key(const std::string &folder);

// Lower-case hexadecimal, and back.
std::string pin_text(const rpc::Pin &pin);
tl::expected<rpc::Pin, std::string> parse_pin(std::string_view text);

}  // namespace inlay::identity::agent
