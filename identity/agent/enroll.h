// inlay enroll: a machine joins a trust domain with one token. inlay leave: it is as before.
#pragma once

#include <string>

namespace inlay::identity::agent {

struct EnrollOptions {
  std::string url;         // "https://ca.example.org:8443", with "#TOKEN" where it was pasted so
  std::string token_file;  // "" = standard input
  std::string state;       // the folder for what it becomes; "" = the standard one
  std::string config;      // the agent's configuration, made when it is not there; "" = standard
  bool start = true;       // the agent, by systemd where that runs
};

// Both say what they did, or on standard error what is wrong. The exit code.
int enroll(const EnrollOptions &options);
struct LeaveOptions {
  std::string state;
  std::string config;
};
int leave(const LeaveOptions &options);

}  // namespace inlay::identity::agent
