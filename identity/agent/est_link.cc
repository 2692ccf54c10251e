#include "identity/agent/est_link.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/x509v3.h>

#include <algorithm>

#include "identity/agent/kept_file.h"
#include "identity/certificate.h"
#include "identity/est.h"
#include "identity/rpc/https_client.h"

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kMostSaid = 200;  // of what a server says for people
constexpr std::size_t kMostAbove = 7;   // of a chain, above its leaf (verify.h)

using Failure = tl::unexpected<std::string>;

X509Ptr from_der(const std::string &der) {
  return certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
}

bool issued(X509 *issuer, X509 *subject) {
  return X509_check_issued(issuer, subject) == X509_V_OK &&
         X509_verify(subject, X509_get0_pubkey(issuer)) == 1;
}

X509Ptr share(const X509Ptr &certificate) {
  return X509_up_ref(certificate.get()) == 1 ? X509Ptr(certificate.get()) : nullptr;
}

}  // namespace

tl::expected<EstAuthorities, std::string> sort_authorities(
    const std::vector<X509Ptr> &certificates) {
  const ErrorMark mark;
  EstAuthorities out;
  for (const X509Ptr &certificate : certificates) {
    if (X509_check_ca(certificate.get()) != 1) {
      return Failure(
          fmt::format("cacerts has {}, which is no authority", subject_text(certificate.get())));
    }
    // RFC 7030 §4.1.3: a new root signed with the old key, and the other way round, come beside the
    // roots. They lead to a root and are none.
    const bool root = X509_self_signed(certificate.get(), 1) == 1;
    (root ? out.anchors : out.between).push_back(certificate_der(certificate.get()));
  }
  if (out.anchors.empty())
    return Failure("cacerts has no root: none of its certificates is self-signed");
  for (auto *list : {&out.anchors, &out.between}) {
    std::ranges::sort(*list);
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  return out;
}

EstChain est_chain(const std::vector<X509Ptr> &given, const EstAuthorities &authorities) {
  const ErrorMark mark;
  std::vector<X509Ptr> anchors, between;
  for (const std::string &der : authorities.anchors) anchors.push_back(from_der(der));
  for (const std::string &der : authorities.between) between.push_back(from_der(der));
  for (std::size_t at = 1; at < given.size(); ++at) between.push_back(share(given[at]));
  EstChain chain;
  chain.certificates.push_back(share(given.front()));
  while (chain.certificates.size() <= kMostAbove) {
    X509 *const last = chain.certificates.back().get();
    const auto leads = [&](const X509Ptr &it) { return it && issued(it.get(), last); };
    chain.complete = std::ranges::any_of(anchors, leads);
    const auto next = std::ranges::find_if(between, leads);
    if (chain.complete || next == between.end()) break;
    chain.certificates.push_back(std::move(*next));
  }
  return chain;
}

tl::expected<std::vector<X509Ptr>, std::string> EstLink::ask(const Asked &asked,
                                                             const EstAuthorities &known) const {
  rpc::HttpsRequest request;
  request.url = settings_.url + "/" + asked.operation;
  request.content_type = asked.content_type;
  request.body = asked.body;
  request.user = asked.user;
  request.password = asked.password;
  request.own = asked.own;
  request.most = kMaxEstBytes;
  request.ending = &ending_;
  std::vector<X509Ptr> anchors;
  if (!settings_.anchors.empty()) {
    const auto text = read_kept_file(settings_.anchors, settings_.owners);
    if (!text) return Failure(text.error());
    auto read = certificates_from_pem(text->bytes);
    if (!read) return Failure(fmt::format("{}: {}", settings_.anchors, read.error()));
    if (read->empty()) return Failure(settings_.anchors + " holds no certificate in PEM");
    anchors = std::move(*read);
    for (const std::string &der : known.anchors) {
      if (X509Ptr anchor = from_der(der)) anchors.push_back(std::move(anchor));
    }
  }
  const auto answer = rpc::ask_https(request, {.anchors = anchors}, std::time(nullptr));
  OPENSSL_cleanse(request.password.data(), request.password.size());
  if (!answer) return Failure(answer.error());
  const auto wrong = [&](std::string_view why) {
    return Failure(fmt::format("{}: {}", request.url, why));
  };
  if (answer->status == 202) return wrong("an administrator there has to agree first (202)");
  if (answer->status != 200) {
    const std::string said =
        printable(answer->body.substr(0, std::min(kMostSaid, answer->body.find_first_of("\r\n"))));
    return wrong(
        fmt::format("answers with status {}{}{}", answer->status, said.empty() ? "" : ": ", said));
  }
  if (!answer->type.starts_with("application/pkcs7-mime")) {
    return wrong("answers with something else than certificates: " + printable(answer->type));
  }
  const auto der = from_est_base64(answer->body);
  if (!der) return wrong(der.error());
  auto certificates = certificates_of(*der);
  if (!certificates) return wrong(certificates.error());
  return certificates;
}

tl::expected<EstAuthorities, std::string> EstLink::authorities(const EstAuthorities &known) const {
  const auto certificates = ask({.operation = "cacerts"}, known);
  if (!certificates) return Failure(certificates.error());
  auto sorted = sort_authorities(*certificates);
  if (!sorted) return Failure(fmt::format("{}: {}", settings_.url, sorted.error()));
  return sorted;
}

tl::expected<std::vector<X509Ptr>, std::string> EstLink::enroll(
    std::string_view operation, EVP_PKEY *key, const std::string &csr,
    const std::optional<rpc::TlsCredentials> &own, const EstAuthorities &known) const {
  Asked asked{.operation = std::string(operation),
              .content_type = "application/pkcs10",
              .body = est_base64(csr),
              .own = own};
  if (!own) {
    auto password = read_kept_file(settings_.password_file, settings_.owners);
    if (!password) return Failure(password.error());
    if (const auto complaint = key_permission_complaint(password->status); !complaint.empty()) {
      return Failure(fmt::format("{} {}", settings_.password_file, complaint));
    }
    asked.user = settings_.user;
    asked.password = password->bytes.substr(0, password->bytes.find_first_of("\r\n"));
  }
  auto certificates = ask(asked, known);
  OPENSSL_cleanse(asked.password.data(), asked.password.size());
  if (!certificates) return certificates;
  const auto mine = std::ranges::find_if(*certificates, [&](const X509Ptr &it) {
    return EVP_PKEY_eq(X509_get0_pubkey(it.get()), key) == 1;
  });
  if (mine == certificates->end()) {
    return Failure(
        fmt::format("{}: gave a certificate for another key than was asked for", settings_.url));
  }
  std::rotate(certificates->begin(), mine, mine + 1);
  return certificates;
}

}  // namespace inlay::identity::agent
