// Whether an SVID that a source gave is one that peers would take now.
#pragma once

#include <ctime>
#include <string>

#include "identity/agent/source.h"
#include "identity/bundle.h"

namespace inlay::identity::agent {

// A Trust with its certificates parsed, once for all judgements.
class Judge {
 public:
  Judge() = default;
  explicit Judge(const Trust &trust);

  // What is wrong with `svid` as that of `id`, one line; "" when nothing is: its ID, its dates, its
  // key, its chain up to an authority of its own trust domain's bundle, and that it is not revoked.
  std::string complaint(const X509Svid &svid, const SpiffeId &id, std::time_t now) const;
  // Of those, what another bundle or CRL could have changed.
  std::string trust_complaint(const X509Svid &svid, std::time_t now) const;
  bool is_revoked(const X509Svid &svid) const;
  // Whether it rests on a tainted authority: peers take it, but not for long.
  bool is_tainted(const X509Svid &svid, std::time_t now) const;

 private:
  BundleSet bundles_;
  std::vector<std::string> crls_;
  std::vector<std::array<std::uint8_t, 32>> tainted_;
};

// "" while `svid` is in its time by the clock here. Says both times otherwise.
std::string date_complaint(const X509Svid &svid, std::time_t now);

}  // namespace inlay::identity::agent
