variable "region" {
  description = "Where all of it is."
  type        = string
  default     = "eu-central-1"
}

variable "zones" {
  description = "The two zones of the region, by their letters."
  type        = list(string)
  default     = ["a", "b"]

  validation {
    condition     = length(var.zones) == 2 && length(distinct(var.zones)) == 2
    error_message = "Give two letters, such as [\"a\", \"b\"]."
  }
}

variable "cluster_name" {
  description = "Name of the cluster, and what the names of all else begin with."
  type        = string
  default     = "streamlab"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.cluster_name))
    error_message = "Use 2 to 31 of a-z, 0-9 and -, starting with a letter."
  }
}

variable "kubernetes_version" {
  description = "Kubernetes' version; the manifests are tried with 1.34."
  type        = string
  default     = "1.34"
}

variable "network" {
  description = "Addresses of the private network, a /16."
  type        = string
  default     = "10.20.0.0/16"

  validation {
    condition     = can(cidrhost(var.network, 0)) && endswith(var.network, "/16")
    error_message = "Give a network such as 10.20.0.0/16."
  }
}

variable "admin_networks" {
  description = "Networks from which the cluster's API may be reached. None: only from within the private network."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.admin_networks, "0.0.0.0/0")
    error_message = "The API must not be open to everybody."
  }
}

variable "node_type" {
  description = "Kind of the nodes: the lab `full` needs 18 GB of memory in all."
  type        = string
  default     = "m7i.xlarge"
}

variable "nodes" {
  description = "Number of nodes: at first, at least and at most. Three, so that each member of a group has its own."
  type = object({
    first = number
    least = number
    most  = number
  })
  default = {
    first = 3
    least = 3
    most  = 6
  }

  validation {
    condition     = var.nodes.least <= var.nodes.first && var.nodes.first <= var.nodes.most
    error_message = "least <= first <= most."
  }
}

variable "node_disk" {
  description = "Disk of a node, in GiB: images and what is not kept."
  type        = number
  default     = 60
}
