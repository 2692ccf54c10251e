// A Workload API server in this process, its view of the world, and clients of it.
#pragma once

#include <doctest/doctest.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>
#include <workload.grpc.pb.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "certificates.h"
#include "identity/agent/workload_api.h"
#include "identity/jwk.h"
#include "identity/jwt_svid.h"
#include "identity/svid.h"

namespace inlay::identity::agent::testing {

inline constexpr const char *kWeb = "spiffe://example.org/web";

inline SpiffeId id_of(std::string_view uri) { return *SpiffeId::parse(uri); }

inline std::string der_of(const X509 *certificate) {
  std::string der(static_cast<std::size_t>(i2d_X509(certificate, nullptr)), '\0');
  auto *position = reinterpret_cast<unsigned char *>(der.data());
  i2d_X509(certificate, &position);
  return der;
}

inline IdentityState held(const inlay::testing::Identity &leaf) {
  HeldSvid held{
      *parse_svid(inlay::testing::chain_pem(leaf), inlay::testing::to_pem(leaf.key.get())), {}};
  for (const X509Ptr &certificate : held.svid.chain) {
    held.chain.push_back(der_of(certificate.get()));
  }
  IdentityState state;
  state.current = std::make_shared<const HeldSvid>(std::move(held));
  return state;
}

class ApiServer {
 public:
  ApiServer() : ApiServer(WorkloadApiLimits{}) {}
  explicit ApiServer(WorkloadApiLimits limits) : api_(make_host(), limits) {
    View view;
    view.identities[kWeb] = held(inlay::testing::issue(authority, kWeb));
    view.trust.bundles["example.org"].x509_authorities = {der_of(authority.certificate.get())};
    set(std::move(view));
  }

  // Another state of things; streams are told.
  void set(View view) {
    {
      const std::lock_guard lock(mutex_);
      view.generation = ++generation_;
      view_ = std::make_shared<const View>(std::move(view));
    }
    api_.changed();
  }
  View view() {
    const std::lock_guard lock(mutex_);
    return *view_;
  }
  // What attest() answers: the web tier's ID at first.
  void permit(tl::expected<Permitted, NotPermitted> permitted) {
    {
      const std::lock_guard lock(mutex_);
      permitted_ = std::move(permitted);
    }
    api_.changed();
  }
  void forbid(AgentRefusal refusal, std::string told) {
    permit(tl::unexpected(NotPermitted{refusal, std::move(told)}));
  }
  std::vector<std::string> events() {
    const std::lock_guard lock(mutex_);
    return events_;
  }

  // The client's end of a connection; -1 when it was not taken.
  int connect() { return connect(getuid()); }
  int connect(uid_t user) {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    if (api_.adopt(policy::UniqueFd(ends[1]), {getpid(), user, getgid()})) return ends[0];
    close(ends[0]);
    return -1;
  }
  std::unique_ptr<SpiffeWorkloadAPI::Stub> client() {
    const int fd = connect();
    REQUIRE(fd >= 0);
    return SpiffeWorkloadAPI::NewStub(grpc::CreateInsecureChannelFromFd("agent", fd));
  }

  inlay::testing::Identity authority = inlay::testing::make_authority("example.org");
  PkeyPtr jwt_key = inlay::testing::make_key(inlay::testing::KeyKind::p256);

 private:
  WorkloadApiHost make_host() {
    return {
        .attest =
            [this](const Caller &, int) {
              const std::lock_guard lock(mutex_);
              return permitted_;
            },
        .view =
            [this] {
              const std::lock_guard lock(mutex_);
              return view_;
            },
        .obtain_jwt = [this](const SpiffeId &id, const std::vector<std::string> &audience)
            -> tl::expected<JwtSvid, SourceFailure> {
          auto token =
              issue_jwt_svid(id, audience, jwt_key.get(), inlay::testing::now(), kJwtLifetime);
          return JwtSvid{*token, inlay::testing::now() + kJwtLifetime};
        },
        .audit =
            [this](const WorkloadApiEvent &event) {
              const std::lock_guard lock(mutex_);
              std::string line(event.method);
              line.append(" ").append(event.status);
              if (!event.spiffe_id.empty()) line.append(" ").append(event.spiffe_id);
              if (!event.told.empty()) line.append(": ").append(event.told);
              events_.push_back(line);
            },
        .cut_off =
            [this](const Caller &caller, std::string_view why) {
              const std::lock_guard lock(mutex_);
              events_.push_back(std::to_string(caller.uid) + " cut off: " + std::string(why));
            },
    };
  }

  std::mutex mutex_;
  std::uint64_t generation_ = 0;
  std::shared_ptr<const View> view_;
  tl::expected<Permitted, NotPermitted> permitted_ = Permitted{id_of(kWeb), ""};
  std::vector<std::string> events_;
  WorkloadApi api_;  // the last: what it calls is above
};

// A call with the metadata that is mandatory.
struct ClientCall {
  ClientCall() { context.AddMetadata("workload.spiffe.io", "true"); }
  grpc::ClientContext context;
};

}  // namespace inlay::identity::agent::testing
