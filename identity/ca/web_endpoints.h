// What the authority serves by HTTPS, beside what agents ask by gRPC: SPIFFE's bundle endpoint
// (SPIFFE Federation §5) and EST (est_server.h).
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/ca/in_force.h"
#include "identity/ca/issuing.h"
#include "identity/ca/web_settings.h"
#include "identity/file.h"
#include "identity/rpc/http_server.h"

namespace inlay::identity::ca {

class WebEndpoints {
 public:
  struct Settings {
    BundleEndpointSettings bundle;
    EstSettings est;
  };
  struct Host {
    std::function<std::shared_ptr<const InForce>()> in_force;
    Issuing &issuing;
    // A connection that came to nothing.
    std::function<void(std::string_view address, std::string_view why)> refused;
    std::function<void(const std::string &problem)> note;
  };

  // Serves when it returns. `own`: the authority's SVID. The error is one line.
  static tl::expected<std::unique_ptr<WebEndpoints>, std::string> start(const Settings &settings,
                                                                        Host host,
                                                                        const X509Svid &own);
  ~WebEndpoints();
  WebEndpoints(const WebEndpoints &) = delete;
  WebEndpoints &operator=(const WebEndpoints &) = delete;

  std::vector<std::string> addresses() const;
  // The authority has another SVID.
  void use(const X509Svid &own);
  // From time to time: certificates whose files have changed are read again.
  void look_at_files();

 private:
  struct Endpoint {
    WebSettings settings;
    std::string name;  // "bundle_endpoint"
    FileStamp certificate, key;
    std::string problem;  // the last one told
    std::unique_ptr<rpc::HttpServer> server;
  };

  explicit WebEndpoints(Host host) : host_(std::move(host)) {}
  tl::expected<void, std::string> add(
      const WebSettings &settings, std::string name, bool ask_client, const X509Svid &own,
      std::function<rpc::HttpAnswer(const rpc::HttpRequest &)> answer);

  const Host host_;
  std::vector<Endpoint> endpoints_;
};

// A GET or HEAD of `path`; else what is wrong with the request. `document`: SPIFFE JSON.
rpc::HttpAnswer answer_for_bundle(const rpc::HttpRequest &request, std::string_view path,
                                  const std::string &document);

}  // namespace inlay::identity::ca
