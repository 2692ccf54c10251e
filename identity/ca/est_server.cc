#include "identity/ca/est_server.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <optional>
#include <set>

#include "identity/base64.h"
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/enrolment_token.h"
#include "identity/est.h"

namespace inlay::identity::ca {
namespace {

using rpc::HttpAnswer;
using rpc::HttpRequest;

constexpr std::string_view kPrefix = "/.well-known/est/";

// CsrAttrs (RFC 7030 §4.5.2): a key of id-ecPublicKey on secp256r1, signed with ecdsa-with-SHA256.
constexpr std::array<unsigned char, 35> kCsrAttributes{
    0x30, 0x21, 0x30, 0x15, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
    0x01, 0x31, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02};

HttpAnswer encoded(std::string type, std::string_view bytes) {
  return {.status = 200,
          .type = std::move(type),
          .body = est_base64(bytes),
          .headers = {{"Content-Transfer-Encoding", "base64"}}};
}

HttpAnswer certificates(const std::vector<std::string> &ders, std::string type) {
  const std::string message = certs_only(ders);
  if (message.empty()) return rpc::http_sentence(500, "the authority has a problem of its own");
  return encoded(std::move(type), message);
}

HttpAnswer refused(const Refused &why) {
  const auto answer = [&](int status, std::string_view field = "", std::string_view value = "") {
    HttpAnswer out = rpc::http_sentence(status, why.message);
    if (!field.empty()) out.headers.emplace_back(field, value);
    return out;
  };
  switch (why.refusal) {
    case Refusal::invalid:
      return answer(400);
    case Refusal::unauthenticated:
      return answer(401, "WWW-Authenticate", "Basic realm=\"inlay\", charset=\"UTF-8\"");
    case Refusal::denied:
      return answer(403);
    case Refusal::exhausted:
      return answer(429, "Retry-After", "10");
    case Refusal::unavailable:
      return answer(503, "Retry-After", "10");
    case Refusal::internal:
      break;
  }
  return answer(500);
}

// The name of the operation; "" for a path that has none.
std::string_view operation_of(std::string_view path) {
  if (!path.starts_with(kPrefix)) return {};
  path.remove_prefix(kPrefix.size());
  const std::size_t slash = path.find('/');
  if (slash == path.npos) return path;
  const std::string_view operation = path.substr(slash + 1);
  return slash == 0 || operation.find('/') != operation.npos ? std::string_view() : operation;
}

struct Password {
  std::string user;
  std::string secret;  // of the token; not 32 bytes when it is none
  ~Password() { OPENSSL_cleanse(secret.data(), secret.size()); }
};

// RFC 7617 §2. The password is a token, as inlay ca token prints it.
std::optional<Password> password_of(const std::string &authorization) {
  constexpr std::string_view kScheme = "basic ";
  const auto same = [](char a, char b) { return b == (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a); };
  if (authorization.size() < kScheme.size() ||
      !std::ranges::equal(std::string_view(authorization).substr(0, kScheme.size()), kScheme,
                          same)) {
    return std::nullopt;
  }
  auto bytes = from_base64(std::string_view(authorization).substr(kScheme.size()));
  if (!bytes) return std::nullopt;
  const auto colon = std::ranges::find(*bytes, ':');
  if (colon == bytes->end()) return std::nullopt;
  std::optional<Password> out(std::in_place);
  out->user.assign(bytes->begin(), colon);
  const std::string_view text(reinterpret_cast<const char *>(&*colon) + 1,
                              static_cast<std::size_t>(bytes->end() - colon) - 1);
  // Without a name the token would say whose it is.
  if (const auto token = parse_enrolment_token(text); token && !out->user.empty()) {
    out->secret.assign(token->secret.begin(), token->secret.end());
  }
  OPENSSL_cleanse(bytes->data(), bytes->size());
  return out;
}

class Post {
 public:
  Post(Issuing &issuing, const HttpRequest &request) : issuing_(issuing), request_(request) {}

  HttpAnswer enroll() {
    if (auto read = read_csr(); !read) return refused(read.error());
    // A client that shows a certificate wants to be known by it, good or not.
    const auto password = password_of(request_.authorization);
    if (!request_.peer->id && password) return enroll_node(*password);
    const auto who = issuing_.caller(request_.peer);
    if (!who) return refused(who.error());
    const auto id = workload_of(*who);
    if (!id) return refused(id.error());
    return given(issuing_.sign(*who, *id, csr_));
  }

  HttpAnswer reenroll() {
    if (auto read = read_csr(); !read) return refused(read.error());
    if (request_.peer->id && !request_.peer->id->path().starts_with(kNodePrefix)) {
      return refused(
          refuse(Refusal::denied,
                 "a workload's SVID is renewed by its node: simpleenroll with the node's "
                 "own SVID")
              .value());
    }
    const auto who = issuing_.caller(request_.peer);
    if (!who) return refused(who.error());
    // RFC 7030 §4.2.2: as in the certificate that is shown.
    if (wishes_.subject != kEmptySubject ||
        wishes_.uris != std::vector{issuing_.node_id(who->node)}) {
      return refused(refuse(Refusal::invalid,
                            fmt::format("the CSR must have the subject and SAN of the certificate: "
                                        "none, and URI:{}",
                                        issuing_.node_id(who->node)))
                         .value());
    }
    return given(issuing_.renew(*who, csr_));
  }

 private:
  tl::unexpected<Refused> refuse(Refusal refusal, std::string message) {
    const std::string id = request_.peer->id ? request_.peer->id->uri() : "";
    return issuing_.refuse({.event = "refused",
                            .address = request_.peer->address,
                            .spiffe_id = wishes_.uris.empty() ? id : asked_,
                            .serial = request_.peer->serial},
                           {refusal, std::move(message)});
  }

  Issued<void> read_csr() {
    // Parameters do not matter (RFC 8951 §3.2: nor does Content-Transfer-Encoding).
    if (!request_.content_type.starts_with("application/pkcs10")) {
      return refuse(Refusal::invalid, "send a CSR: Content-Type application/pkcs10, in base64");
    }
    const auto bytes = from_est_base64(request_.body);
    if (!bytes) return refuse(Refusal::invalid, "the CSR: " + bytes.error());
    if (const auto key = public_key_of_csr(*bytes); !key) {
      return refuse(Refusal::invalid, key.error());
    }
    auto wishes = wishes_of_csr(*bytes);
    if (!wishes) return refuse(Refusal::invalid, wishes.error());
    csr_ = *bytes;
    wishes_ = std::move(*wishes);
    if (!wishes_.uris.empty()) asked_ = printable(wishes_.uris.front());
    if (wishes_.authority) return refuse(Refusal::denied, "the CSR asks to be an authority");
    if (wishes_.other_names || wishes_.uris.size() > 1) {
      return refuse(Refusal::denied, "the CSR asks for further names: there is one URI SAN in all");
    }
    return {};
  }

  HttpAnswer enroll_node(const Password &password) {
    if (!wishes_.uris.empty() && wishes_.uris.front() != issuing_.node_id(password.user)) {
      return refused(refuse(Refusal::denied,
                            fmt::format("the CSR asks for another ID than that of the node {}",
                                        printable(password.user)))
                         .value());
    }
    auto issued = issuing_.enroll(
        {.secret = password.secret, .csr = csr_, .hostname = "", .node = password.user},
        request_.peer->address);
    // It is the password that is wrong.
    if (!issued && issued.error().refusal == Refusal::denied) {
      issued.error().refusal = Refusal::unauthenticated;
    }
    return given(std::move(issued));
  }

  // What the CSR names, or the only one that there is.
  Issued<std::string> workload_of(const Caller &who) {
    if (!wishes_.uris.empty()) return wishes_.uris.front();
    const auto entries = issuing_.entries(who);
    if (!entries) return tl::unexpected(entries.error());
    std::set<std::string> ids;
    for (const Entry &entry : *entries) ids.insert(entry.spiffe_id);
    if (ids.size() == 1) return *ids.begin();
    return refuse(Refusal::invalid,
                  ids.empty() ? "this node has no entry: inlay ca entry add makes one"
                              : "this node has several IDs: name one in the CSR, as its URI SAN");
  }

  // RFC 7030 §4.2.3: the certificate alone; cacerts has what is above it.
  static HttpAnswer given(Issued<Chain> issued) {
    if (!issued) return refused(issued.error());
    return certificates({issued->front()}, "application/pkcs7-mime; smime-type=certs-only");
  }

  Issuing &issuing_;
  const HttpRequest &request_;
  std::string csr_;
  CsrWishes wishes_;
  std::string asked_;  // the first URI, fit for a log
};

HttpAnswer only(std::string_view method) {
  HttpAnswer answer = rpc::http_sentence(405, fmt::format("this is asked by {}", method));
  answer.headers = {{"Allow", std::string(method)}};
  return answer;
}

}  // namespace

HttpAnswer answer_est(Issuing &issuing, const HttpRequest &request) {
  const std::string_view operation = operation_of(request.path);
  const bool reads = operation == "cacerts" || operation == "csrattrs";
  const bool posts = operation == "simpleenroll" || operation == "simplereenroll";
  if (!reads && !posts) return rpc::http_sentence(404, "there is nothing here");
  if (posts) {
    if (request.method != "POST") return only("POST");
    Post post(issuing, request);
    return operation == "simpleenroll" ? post.enroll() : post.reenroll();
  }
  if (request.method != "GET" && request.method != "HEAD") return only("GET");
  if (operation == "csrattrs") {
    return encoded("application/csrattrs",
                   {reinterpret_cast<const char *>(kCsrAttributes.data()), kCsrAttributes.size()});
  }
  const auto in_force = issuing.host().in_force();
  std::vector<std::string> all = in_force->signer.bundle().x509_authorities;
  for (std::string &der : in_force->signer.intermediates()) all.push_back(std::move(der));
  return certificates(all, "application/pkcs7-mime; smime-type=certs-only");
}

}  // namespace inlay::identity::ca
