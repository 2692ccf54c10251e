// What the configuration says of HTTPS: where the authority serves it, and whose bundles it
// fetches.
#pragma once

#include <string>
#include <vector>

namespace inlay::identity::ca {

struct WebSettings {
  std::vector<std::string> listen;  // "0.0.0.0:8444"; none: it is not served
  // Absolute; "" = the authority's own SVID.
  std::string certificate, key;
};

struct BundleEndpointSettings : WebSettings {
  std::string path = "/";
};

struct EstSettings : WebSettings {
  std::vector<std::string> names;  // by which machines know the authority, for its own SVID
};

struct FederationSettings {
  std::string trust_domain;
  std::string url;
  std::string endpoint_spiffe_id;  // "" = https_web
  std::string bundle;              // absolute; of https_spiffe, until there is one that was fetched
  std::string ca_file;             // absolute; of https_web, "" = the system's
};

}  // namespace inlay::identity::ca
