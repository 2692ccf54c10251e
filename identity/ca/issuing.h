// What the authority issues to whom, whichever protocol it is asked by: gRPC (service.h) or EST
// (est_server.h). Each request is judged by its connection's certificate, by the store as it is at
// that moment, and by the clock; each answer is a line of the audit log. Any thread.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/audit_log.h"
#include "identity/ca/in_force.h"
#include "identity/ca/store.h"
#include "identity/rpc/rate_limit.h"
#include "identity/rpc/tls_server.h"

namespace inlay::identity::ca {

// The SPIFFE ID of a node is this path and its name.
inline constexpr std::string_view kNodePrefix = "/inlay/node/";

enum class Refusal : std::uint8_t {
  invalid,          // the request is wrong; the same again is no use
  unauthenticated,  // this needs a certificate that counts
  denied,
  exhausted,    // too many at once; later will do
  unavailable,  // the database; later will do
  internal,
};
std::string_view name(Refusal refusal) noexcept;  // "INVALID_ARGUMENT": as gRPC calls it
struct Refused {
  Refusal refusal = Refusal::internal;
  std::string message;      // one line, for who asked
  std::string detail = {};  // one line, for the audit log alone; "" = as the message
};
template <typename T>
using Issued = tl::expected<T, Refused>;

struct IssuingSettings {
  std::string trust_domain;
  std::time_t node_lifetime = 86400;  // seconds, as the next two
  std::time_t svid_lifetime = 3600;
  std::time_t jwt_lifetime = 300;
  // Each is far above what an agent needs: a fleet behind one address enrols at 20 a second.
  std::uint32_t enrolments_per_second = 20;  // of an address
  std::uint32_t requests_per_second = 200;   // of a node
};

struct IssuingHost {
  Store &store;
  std::function<std::shared_ptr<const InForce>()> in_force;
  std::function<void(const AuditRecord &)> audit;
  std::function<std::time_t()> now;
};

// A node, as its connection has proved.
struct Caller {
  std::shared_ptr<const rpc::PeerIdentity> peer;
  std::string node;
};

struct EnrolmentRequest {
  std::string_view secret;     // of the token
  std::string_view csr;        // DER
  std::string_view hostname;   // for people
  std::string_view node = {};  // the name it must be for; "" = whichever the token says
};

using Chain = std::vector<std::string>;  // DER, leaf first; without the root

class Issuing {
 public:
  Issuing(IssuingHost host, IssuingSettings settings);

  // The node behind a connection; null when that is gone.
  Issued<Caller> caller(std::shared_ptr<const rpc::PeerIdentity> peer);
  // Whether it still is one. Not written to the audit log.
  Issued<void> check(const Caller &caller);

  // A node's own SVID: for a token, for the one it has, or after that has ended.
  Issued<Chain> enroll(const EnrolmentRequest &request, const std::string &address);
  Issued<Chain> renew(const Caller &who, std::string_view csr);
  Issued<Chain> rejoin(const std::string &node_uri, std::string_view csr,
                       const std::string &address);

  // For its workloads: what its entries say.
  Issued<std::vector<Entry>> entries(const Caller &who);
  Issued<Chain> sign(const Caller &who, const std::string &spiffe_id, std::string_view csr);
  Issued<SignedJwt> sign_jwt(const Caller &who, const std::string &spiffe_id,
                             const std::vector<std::string> &audience);

  // Writes the line of a refusal.
  tl::unexpected<Refused> refuse(const AuditRecord &event, Refused why);
  std::string node_id(std::string_view node) const;
  const IssuingSettings &settings() const noexcept { return settings_; }
  const IssuingHost &host() const noexcept { return host_; }

 private:
  Issued<Chain> issue_node(const std::string &node, EVP_PKEY *key, std::string_view by,
                           std::string_view event, std::string_view address);

  const IssuingHost host_;
  const IssuingSettings settings_;
  rpc::RateLimit<std::string> enrolments_;  // of an address
  rpc::RateLimit<std::string> requests_;    // of a node
};

}  // namespace inlay::identity::ca
