#include "identity/ca/web_endpoints.h"

#include <fmt/format.h>

#include <utility>

#include "identity/ca/credential_files.h"
#include "identity/ca/est_server.h"
#include "identity/private_key.h"

namespace inlay::identity::ca {
namespace {

tl::expected<CredentialFiles, std::string> load(const WebSettings &files) {
  auto read = read_credentials(files.certificate, files.key, "the key");
  if (!read) return read;
  if (X509_check_private_key(read->chain.front().get(), read->key.get()) != 1 ||
      !halves_match(read->key.get())) {
    return tl::unexpected(fmt::format("{} is not the key of {}", files.key, files.certificate));
  }
  return read;
}

}  // namespace

rpc::HttpAnswer answer_for_bundle(const rpc::HttpRequest &request, std::string_view path,
                                  const std::string &document) {
  if (request.path != path) return rpc::http_sentence(404, "there is nothing here");
  if (request.method != "GET" && request.method != "HEAD") {
    auto answer = rpc::http_sentence(405, "the bundle is for reading: GET");
    answer.headers = {{"Allow", "GET, HEAD"}};
    return answer;
  }
  return {.status = 200, .type = "application/json", .body = document};
}

WebEndpoints::~WebEndpoints() = default;

tl::expected<void, std::string> WebEndpoints::add(
    const WebSettings &settings, std::string name, bool ask_client, const X509Svid &own,
    std::function<rpc::HttpAnswer(const rpc::HttpRequest &)> answer) {
  if (settings.listen.empty()) return {};
  Endpoint made{.settings = settings,
                .name = std::move(name),
                .certificate = FileStamp::of(settings.certificate),
                .key = FileStamp::of(settings.key),
                .problem = "",
                .server = nullptr};
  tl::expected<CredentialFiles, std::string> files;
  if (!settings.certificate.empty() && !(files = load(settings))) {
    return tl::unexpected(fmt::format("[{}]: {}", made.name, files.error()));
  }
  const rpc::TlsCredentials shown = settings.certificate.empty()
                                        ? rpc::TlsCredentials(own)
                                        : rpc::TlsCredentials(files->chain, files->key.get());
  auto server = rpc::HttpServer::listen({.listen = settings.listen, .ask_client = ask_client},
                                        {.bundles = [this] { return host_.in_force()->trusted; },
                                         .now = [] { return std::time(nullptr); },
                                         .answer = std::move(answer),
                                         .refused = host_.refused},
                                        shown);
  if (!server) return tl::unexpected(fmt::format("[{}]: {}", made.name, server.error()));
  made.server = std::move(*server);
  endpoints_.push_back(std::move(made));
  return {};
}

tl::expected<std::unique_ptr<WebEndpoints>, std::string> WebEndpoints::start(
    const Settings &settings, Host host, const X509Svid &own) {
  std::unique_ptr<WebEndpoints> made(new WebEndpoints(std::move(host)));
  WebEndpoints *const it = made.get();
  auto bundle = it->add(settings.bundle, "bundle_endpoint", false, own,
                        [it, path = settings.bundle.path](const rpc::HttpRequest &request) {
                          const auto in_force = it->host_.in_force();
                          return answer_for_bundle(
                              request, path, in_force->bundles.at(in_force->signer.trust_domain()));
                        });
  if (!bundle) return tl::unexpected(bundle.error());
  auto est = it->add(settings.est, "est", true, own, [it](const rpc::HttpRequest &request) {
    return answer_est(it->host_.issuing, request);
  });
  if (!est) return tl::unexpected(est.error());
  return made;
}

std::vector<std::string> WebEndpoints::addresses() const {
  std::vector<std::string> out;
  for (const Endpoint &endpoint : endpoints_) {
    for (const std::string &address : endpoint.server->addresses()) {
      out.push_back(fmt::format("{} ({})", address, endpoint.name));
    }
  }
  return out;
}

void WebEndpoints::use(const X509Svid &own) {
  for (Endpoint &endpoint : endpoints_) {
    if (!endpoint.settings.certificate.empty()) continue;
    if (auto used = endpoint.server->use(own); !used) host_.note(used.error());
  }
}

void WebEndpoints::look_at_files() {
  for (Endpoint &endpoint : endpoints_) {
    if (endpoint.settings.certificate.empty()) continue;
    const FileStamp certificate = FileStamp::of(endpoint.settings.certificate);
    const FileStamp key = FileStamp::of(endpoint.settings.key);
    // After a failure at every look: the other half may be on its way.
    if (certificate == endpoint.certificate && key == endpoint.key && endpoint.problem.empty()) {
      continue;
    }
    endpoint.certificate = certificate;
    endpoint.key = key;
    const auto files = load(endpoint.settings);
    const auto used = files ? endpoint.server->use({files->chain, files->key.get()})
                            : tl::unexpected(files.error());
    const std::string problem = used ? ""
                                     : fmt::format("[{}] goes on with its old certificate: {}",
                                                   endpoint.name, used.error());
    if (problem != std::exchange(endpoint.problem, problem) && !problem.empty()) {
      host_.note(problem);
    }
  }
}

}  // namespace inlay::identity::ca
