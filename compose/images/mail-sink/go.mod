// MailHog v1.0.1 and everything it is built of, pinned by go.sum.
module streamlab/mail-sink

go 1.24

tool github.com/mailhog/MailHog

// The module proxy does not have github.com/ian-kent/{envconf,go-log,goose,linkio}: our own hold what MailHog calls of them.
replace github.com/ian-kent => ./ian-kent

require github.com/ian-kent v0.0.0

require (
	github.com/gorilla/context v1.1.2 // indirect
	github.com/gorilla/mux v1.8.1 // indirect
	github.com/gorilla/pat v1.0.2 // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/mailhog/MailHog v1.0.1 // indirect
	github.com/mailhog/MailHog-Server v1.0.1 // indirect
	github.com/mailhog/MailHog-UI v1.0.1 // indirect
	github.com/mailhog/data v1.0.1 // indirect
	github.com/mailhog/http v1.0.1 // indirect
	github.com/mailhog/mhsendmail v0.2.0 // indirect
	github.com/mailhog/smtp v1.0.1 // indirect
	github.com/mailhog/storage v1.0.1 // indirect
	github.com/ogier/pflag v0.0.1 // indirect
	golang.org/x/crypto v0.41.0 // indirect
	gopkg.in/mgo.v2 v2.0.0-20190816093944-a6b53ec6cb22 // indirect
)
