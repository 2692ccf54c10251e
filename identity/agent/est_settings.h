// An EST server as a source: what the configuration says of it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace inlay::identity::agent {

struct EstSettings {
  std::string url;  // "https://est.example.org/.well-known/est", with a label or without
  std::string trust_domain;
  std::string anchors;  // a file: who may have signed the server's certificate; "" = the system's
  // First contact; the certificate that is given is kept in the folder and renewed.
  std::string user, password_file, folder;
  // Or a certificate that others renew.
  std::string certificate, key;
  std::vector<uid_t> owners{};
  bool operator==(const EstSettings &) const = default;
};

}  // namespace inlay::identity::agent
