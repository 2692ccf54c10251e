#include "identity/agent/api_messages.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <workload.pb.h>

#include <utility>

#include "identity/certificate.h"

namespace inlay::identity::agent {
namespace {

constexpr std::string_view kScheme = "spiffe://";

// SPIFFE_Workload_API.md §5.1: bundles are keyed by the trust domain's SPIFFE ID.
std::string trust_domain_id(std::string_view trust_domain) {
  return std::string(kScheme).append(trust_domain);
}

// "ASN.1 DER encoded": one certificate after the other, with nothing between.
std::string joined(const std::vector<std::string> &certificates) {
  std::string all;
  for (const std::string &certificate : certificates) all += certificate;
  return all;
}

template <typename Message>
SecretBytes serialize(const Message &message) {
  SecretBytes bytes(message.ByteSizeLong());
  google::protobuf::io::ArrayOutputStream array(bytes.data.get(), static_cast<int>(bytes.size));
  google::protobuf::io::CodedOutputStream coded(&array);
  coded.SetSerializationDeterministic(true);  // maps in order
  message.SerializeWithCachedSizes(&coded);
  return bytes;
}

// Into `out`, without a copy of the key left in memory that nobody cleanses.
bool write_pkcs8(const EVP_PKEY *key, std::string &out) {
  const std::unique_ptr<PKCS8_PRIV_KEY_INFO, OpensslDelete<PKCS8_PRIV_KEY_INFO_free>> info(
      EVP_PKEY2PKCS8(key));
  const int size = info ? i2d_PKCS8_PRIV_KEY_INFO(info.get(), nullptr) : -1;
  if (size <= 0) return false;
  out.resize(static_cast<std::size_t>(size));
  auto *position = reinterpret_cast<unsigned char *>(out.data());
  return i2d_PKCS8_PRIV_KEY_INFO(info.get(), &position) == size;
}

tl::unexpected<std::string> no_bundle(const View &view, std::string_view trust_domain) {
  std::string why = "there is no trust bundle of " + std::string(trust_domain) + " yet";
  if (!view.trust_error.empty()) why += ": " + view.trust_error;
  return tl::unexpected(std::move(why));
}

const TrustDomainBundle *bundle_of(const View &view, std::string_view trust_domain) {
  const auto found = view.trust.bundles.find(trust_domain);
  return found == view.trust.bundles.end() ? nullptr : &found->second;
}

}  // namespace

SecretBytes::SecretBytes(std::size_t bytes) : data(std::make_unique<char[]>(bytes)), size(bytes) {}
SecretBytes::SecretBytes(SecretBytes &&other) noexcept
    : data(std::move(other.data)), size(std::exchange(other.size, 0)) {}
SecretBytes::~SecretBytes() {
  if (data) OPENSSL_cleanse(data.get(), size);
}

ApiMessage x509_svid_message(const View &view, const SpiffeId &id, const std::string &hint) {
  const auto found = view.identities.find(id.uri());
  if (found == view.identities.end() || !found->second.current) {
    const std::string why = found == view.identities.end() ? "" : found->second.error;
    return tl::unexpected("there is no valid SVID for " + id.uri() + " now" +
                          (why.empty() ? "" : ": " + why));
  }
  const TrustDomainBundle *const own = bundle_of(view, id.trust_domain());
  // §4.5: a mandatory field without a value makes clients discard the message.
  if (own == nullptr || own->x509_authorities.empty()) return no_bundle(view, id.trust_domain());

  const HeldSvid &held = *found->second.current;
  X509SVIDResponse response;
  X509SVID &svid = *response.add_svids();
  svid.set_spiffe_id(id.uri());
  svid.set_x509_svid(joined(held.chain));
  svid.set_bundle(joined(own->x509_authorities));
  svid.set_hint(hint);
  for (const std::string &crl : view.trust.crls) response.add_crl(crl);
  for (const auto &[trust_domain, bundle] : view.trust.bundles) {
    if (trust_domain == id.trust_domain() || bundle.x509_authorities.empty()) continue;
    (*response.mutable_federated_bundles())[trust_domain_id(trust_domain)] =
        joined(bundle.x509_authorities);
  }
  const ErrorMark mark;
  std::string &key = *svid.mutable_x509_svid_key();
  const bool written = write_pkcs8(held.svid.key.get(), key);
  SecretBytes bytes = serialize(response);
  OPENSSL_cleanse(key.data(), key.size());
  if (!written) return tl::unexpected(std::string("the SVID's key cannot be written as PKCS#8"));
  return bytes;
}

ApiMessage x509_bundles_message(const View &view, const SpiffeId &id) {
  const TrustDomainBundle *const own = bundle_of(view, id.trust_domain());
  if (own == nullptr || own->x509_authorities.empty()) return no_bundle(view, id.trust_domain());
  X509BundlesResponse response;
  for (const std::string &crl : view.trust.crls) response.add_crl(crl);
  for (const auto &[trust_domain, bundle] : view.trust.bundles) {
    if (bundle.x509_authorities.empty()) continue;
    (*response.mutable_bundles())[trust_domain_id(trust_domain)] = joined(bundle.x509_authorities);
  }
  return serialize(response);
}

ApiMessage jwt_bundles_message(const View &view, const SpiffeId &id) {
  if (bundle_of(view, id.trust_domain()) == nullptr) return no_bundle(view, id.trust_domain());
  JWTBundlesResponse response;
  for (const auto &[trust_domain, bundle] : view.trust.bundles) {
    // The own one must be there (§6.2.2), be it without a key.
    if (bundle.jwt_authorities.empty() && trust_domain != id.trust_domain()) continue;
    (*response.mutable_bundles())[trust_domain_id(trust_domain)] = jwk_set(bundle.jwt_authorities);
  }
  return serialize(response);
}

}  // namespace inlay::identity::agent
