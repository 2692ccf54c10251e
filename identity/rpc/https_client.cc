#include "identity/rpc/https_client.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <memory>

#include "identity/certificate.h"
#include "identity/verify.h"

namespace inlay::identity::rpc {
namespace {

constexpr std::size_t kMostHeader = 64 * 1024;

struct EasyDelete {
  void operator()(CURL *handle) const noexcept { curl_easy_cleanup(handle); }
};
struct ListDelete {
  void operator()(curl_slist *list) const noexcept { curl_slist_free_all(list); }
};

// What libcurl's callbacks work on.
struct Exchange {
  const HttpsRequest &request;
  const HttpsTrust &trust;
  std::time_t now;
  HttpsAnswer answer;
  std::size_t header = 0;
  std::string problem;  // what a callback ended the exchange for
};

std::size_t on_body(char *bytes, std::size_t, std::size_t count, void *argument) noexcept {
  auto &exchange = *static_cast<Exchange *>(argument);
  if (exchange.answer.body.size() + count > exchange.request.most) {
    exchange.problem = fmt::format("its answer is longer than {} bytes", exchange.request.most);
    return 0;
  }
  exchange.answer.body.append(bytes, count);
  return count;
}

std::size_t on_header(char *, std::size_t, std::size_t count, void *argument) noexcept {
  auto &exchange = *static_cast<Exchange *>(argument);
  exchange.header += count;
  if (exchange.header <= kMostHeader) return count;
  exchange.problem = "the header of its answer is too long";
  return 0;
}

int on_progress(void *argument, curl_off_t, curl_off_t, curl_off_t, curl_off_t) noexcept {
  const auto *ending = static_cast<Exchange *>(argument)->request.ending;
  return ending != nullptr && ending->load() ? 1 : 0;
}

std::string judge(const STACK_OF(X509) * chain, const Exchange &exchange) {
  const auto id = verify_x509_svid(chain, *exchange.trust.bundles, exchange.now);
  if (!id) {
    const bool by_clock =
        id.error().error == VerifyError::expired || id.error().error == VerifyError::not_yet_valid;
    return fmt::format(
        "its certificate is not good: {}{}{}{}", sentence(id.error().error),
        id.error().detail.empty() ? "" : ": ", id.error().detail,
        by_clock ? fmt::format("; the clock here says {}", time_text(exchange.now)) : "");
  }
  if (id->uri() != exchange.trust.spiffe_id) {
    return fmt::format("what answers there is {}, not {}", id->uri(), exchange.trust.spiffe_id);
  }
  return {};
}

int on_chain(X509_STORE_CTX *store, void *argument) noexcept {
  auto &exchange = *static_cast<Exchange *>(argument);
  exchange.problem = judge(X509_STORE_CTX_get0_untrusted(store), exchange);
  const bool good = exchange.problem.empty();
  X509_STORE_CTX_set_error(store, good ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
  return good ? 1 : 0;
}

// Only these, in place of what libcurl was built with.
bool use_anchors(SSL_CTX *context, std::span<const X509Ptr> anchors) {
  std::unique_ptr<X509_STORE, OpensslDelete<X509_STORE_free>> store(X509_STORE_new());
  if (!store) return false;
  for (const X509Ptr &anchor : anchors) {
    if (X509_STORE_add_cert(store.get(), anchor.get()) != 1) return false;
  }
  X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN);
  SSL_CTX_set_cert_store(context, store.release());
  return true;
}

CURLcode on_context(CURL *, void *ssl_context, void *argument) noexcept {
  auto &exchange = *static_cast<Exchange *>(argument);
  auto *const context = static_cast<SSL_CTX *>(ssl_context);
  SSL_CTX_set_security_level(context, 2);
  if (!exchange.trust.spiffe_id.empty()) {
    SSL_CTX_set_cert_verify_callback(context, on_chain, &exchange);
  } else if (!exchange.trust.anchors.empty() && !use_anchors(context, exchange.trust.anchors)) {
    exchange.problem = "the anchors cannot be used";
    return CURLE_SSL_CERTPROBLEM;
  }
  if (exchange.request.own && !use_credentials(context, *exchange.request.own)) {
    exchange.problem = "the certificate to show cannot be used: " + tls_error(0);
    return CURLE_SSL_CERTPROBLEM;
  }
  return CURLE_OK;
}

// Is there a libcurl, and is its OpenSSL the one that the callbacks above are for?
bool started() {
  static const bool good = [] {
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return false;
    const char *const library = curl_version_info(CURLVERSION_NOW)->ssl_version;
    return library != nullptr && std::string_view(library).starts_with("OpenSSL/");
  }();
  return good;
}

}  // namespace

tl::expected<HttpsAnswer, std::string> ask_https(const HttpsRequest &request,
                                                 const HttpsTrust &trust, std::time_t now) {
  const auto bad = [&](std::string_view why) {
    return tl::unexpected(fmt::format("{}: {}", request.url, why));
  };
  const std::unique_ptr<CURL, EasyDelete> handle(started() ? curl_easy_init() : nullptr);
  if (!handle) return bad("libcurl with OpenSSL is not to be had");
  Exchange exchange{request, trust, now, {}, 0, ""};
  char reason[CURL_ERROR_SIZE] = "";
  std::unique_ptr<curl_slist, ListDelete> headers;
  bool good = true;
  const auto set = [&](CURLoption option, auto value) {
    good = good && curl_easy_setopt(handle.get(), option, value) == CURLE_OK;
  };
  const bool by_spiffe = !trust.spiffe_id.empty();
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "https");
  set(CURLOPT_HTTP_VERSION, long{CURL_HTTP_VERSION_1_1});
  set(CURLOPT_SSLVERSION, long{CURL_SSLVERSION_TLSv1_2});
  set(CURLOPT_SSL_VERIFYPEER, 1L);
  set(CURLOPT_SSL_VERIFYHOST, by_spiffe ? 0L : 2L);
  set(CURLOPT_SSL_SESSIONID_CACHE, 0L);
  if (by_spiffe || !trust.anchors.empty()) {
    set(CURLOPT_CAINFO, static_cast<char *>(nullptr));
    set(CURLOPT_CAPATH, static_cast<char *>(nullptr));
  }
  set(CURLOPT_SSL_CTX_FUNCTION, on_context);
  set(CURLOPT_SSL_CTX_DATA, &exchange);
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_PROXY, "");  // whatever the environment says
  set(CURLOPT_NETRC, long{CURL_NETRC_IGNORED});
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_CONNECTTIMEOUT, long{request.connect_seconds});
  set(CURLOPT_TIMEOUT, long{request.seconds});
  set(CURLOPT_WRITEFUNCTION, on_body);
  set(CURLOPT_WRITEDATA, &exchange);
  set(CURLOPT_HEADERFUNCTION, on_header);
  set(CURLOPT_HEADERDATA, &exchange);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, on_progress);
  set(CURLOPT_XFERINFODATA, &exchange);
  set(CURLOPT_ERRORBUFFER, reason);
  if (!request.user.empty()) {
    set(CURLOPT_HTTPAUTH, long{CURLAUTH_BASIC});
    set(CURLOPT_USERNAME, request.user.c_str());
    set(CURLOPT_PASSWORD, request.password.c_str());
  }
  if (!request.content_type.empty()) {
    headers.reset(curl_slist_append(nullptr, ("Content-Type: " + request.content_type).c_str()));
    headers.reset(curl_slist_append(headers.release(), "Content-Transfer-Encoding: base64"));
    headers.reset(curl_slist_append(headers.release(), "Expect:"));
    set(CURLOPT_HTTPHEADER, headers.get());
    set(CURLOPT_POSTFIELDSIZE, static_cast<long>(request.body.size()));
    set(CURLOPT_POSTFIELDS, request.body.c_str());
  }
  if (!good) return bad("libcurl does not know all that it must");
  const ErrorMark mark;
  const CURLcode code = curl_easy_perform(handle.get());
  if (code != CURLE_OK) {
    if (!exchange.problem.empty()) return bad(exchange.problem);
    return bad(reason[0] != '\0' ? printable(reason) : curl_easy_strerror(code));
  }
  long status = 0;
  const char *type = nullptr, *target = nullptr;
  curl_easy_getinfo(handle.get(), CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(handle.get(), CURLINFO_CONTENT_TYPE, &type);
  curl_easy_getinfo(handle.get(), CURLINFO_REDIRECT_URL, &target);
  if (status >= 300 && status < 400) {
    return bad(
        fmt::format("it redirects to {}, where nothing is asked: write that address if it is "
                    "meant",
                    target != nullptr ? printable(target) : "nowhere"));
  }
  exchange.answer.status = static_cast<int>(status);
  if (type != nullptr) exchange.answer.type = type;
  return std::move(exchange.answer);
}

}  // namespace inlay::identity::rpc
