#include "identity/agent_address.h"

#include <doctest/doctest.h>

using inlay::identity::parse_agent_address;

TEST_CASE("an agent's address names the path of its socket") {
  CHECK(parse_agent_address("unix:///run/inlay/agent.sock") == "/run/inlay/agent.sock");
  CHECK(parse_agent_address("unix:/run/inlay/agent.sock") == "/run/inlay/agent.sock");
  CHECK(parse_agent_address("unix://" + std::string(1, '/') + std::string(106, 'a')));
}

TEST_CASE("what is no address of a Unix socket is refused") {
  for (const char *text :
       {"", "/run/inlay/agent.sock", "unix://", "unix:", "unix:agent.sock", "unix://host/agent.sock",
        "tcp://127.0.0.1:1", "Unix:///a", "unix:///a?b", "unix:///a#b", "unix:///a\nb"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_agent_address(text));
  }
  CHECK_FALSE(parse_agent_address("unix:///" + std::string(107, 'a')));
}
